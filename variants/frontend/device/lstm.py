"""An LSTM's steps as one kernel: cuDNN launches at least one for each, and 10 s of speech have 313."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from harness.errors import UnavailableError
from variants.content_cache import ContentCache, user_cache
from variants.cuda.compiler import compile_kernels
from variants.cuda.kernels import Arguments, Launch, Module, device_attribute

SOURCE = Path(__file__).with_name("lstm.cu")
HIDDEN = 128
_GATES = 4 * HIDDEN
_SHARED_BYTES = _GATES * HIDDEN // 2 * 4  # half of the weights
_STATIC_BYTES = (_GATES + HIDDEN) * 4


class LstmSteps:
    """What the input contributes to each gate, float32 ``[B, T, 512]``, to states ``[B, T, 128]``.

    May be captured in a graph: its arguments are read when it is launched.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        """``weights`` float32 ``[512, 128]`` are those of the hidden state, on a GPU; they are kept.

        Raises ``UnavailableError`` where there is no GPU, or one whose blocks have too little shared memory,
        or no compiler.
        """
        device = weights.device
        if device.type != "cuda":
            raise UnavailableError("frontend.recurrence=kernel needs the model on a GPU: set it to torch")
        number = torch.cuda.current_device() if device.index is None else device.index
        held = device_attribute(number, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        needed = _SHARED_BYTES + _STATIC_BYTES
        if held < needed:
            raise UnavailableError(
                f"frontend.recurrence=kernel needs {needed:,} bytes of shared memory a block, "
                f"{torch.cuda.get_device_name(device)} has {held:,}: set it to torch"
            )
        capability = torch.cuda.get_device_capability(device)
        cache = ContentCache(user_cache("kernels"))
        self._module = Module(compile_kernels(SOURCE, [], {}, capability, cache).image)
        kernel = self._module.kernel("lstm_steps", _SHARED_BYTES)
        self._launch = Launch(kernel, _GATES, _SHARED_BYTES)
        self._weights = weights.contiguous()

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        given = given.contiguous()
        rows, steps, _ = given.shape
        states = given.new_empty(rows, steps, HIDDEN)
        pointers = (ctypes.c_void_p(each.data_ptr()) for each in (given, self._weights, states))
        if rows:
            stream = torch.cuda.current_stream(given.device).cuda_stream
            self._launch(rows, Arguments(*pointers, ctypes.c_int(steps)), stream)
        return states
