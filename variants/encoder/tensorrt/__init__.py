"""TensorRT engines of the encoder: exported through ONNX, built in a process of their own, run by pointer.

``versions``, ``logs``, ``spec``, ``build``, ``run``, ``variants.cuda`` and ``variants.content_cache`` need
TensorRT, NumPy and cuda-bindings and never import torch, so that they also serve an interpreter without it.
"""
