"""CUDA without torch: the one home of compiling, launching and graphs, thin over cuda-bindings 12.6 to 13.

``bindings`` loads the packages and turns status codes into exceptions, ``compiler`` is NVRTC, ``kernels``
modules and launches, ``graphs`` a WHILE graph, ``device`` memory, streams and captured graphs.

cuda-core is not used. It refuses structures as kernel arguments (seen in 1.2.2), by which these kernels take
their tables of addresses, and where it has conditional graphs it needs newer bindings than users of
cuda-python 12.6 and of TensorRT 8.6's interpreter have.
"""
