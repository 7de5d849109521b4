"""The encoder's forward and backward passes as CUDA graphs.

A step of the tiny model is thousands of kernels of microseconds each; launched one by one, the host
takes several times as long as the GPU. Batches have few shapes, so each is captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Features ``[B, F, T]`` and frame counts ``[B]`` to states ``[B, D, T']``."""


class GraphedEncoder:
    """An ``Encode`` that captures ``encoder`` in training mode the first time it meets a shape."""

    def __init__(self, encoder: nn.Module, autocast: torch.dtype) -> None:
        self._encoder = encoder
        self._autocast = autocast
        self._captured: dict[torch.Size, Any] = {}
        # One pool: a step ends before the next begins, so graphs of different shapes may share memory.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if features.shape not in self._captured:
            self._captured[features.shape] = self._capture(features, lengths)
        states: torch.Tensor = self._captured[features.shape](features, lengths)
        return states

    @property
    def shapes(self) -> int:
        """How many shapes were captured."""
        return len(self._captured)

    def _capture(self, features: torch.Tensor, lengths: torch.Tensor) -> Any:
        for parameter in self._encoder.parameters():
            parameter.grad = None  # the last step's gradients lie in memory that the capture may reuse
        return torch.cuda.make_graphed_callables(
            _Autocast(self._encoder, self._autocast),
            (features.clone(), lengths.clone()),
            num_warmup_iters=2,
            allow_unused_input=True,
            pool=self._pool,
        )


class _Autocast(nn.Module):
    """The encoder alone, with tensors in and one tensor out. Casts are not cached across replays."""

    def __init__(self, encoder: nn.Module, autocast: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder
        self._autocast = autocast

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=self._autocast, cache_enabled=False):
            states: torch.Tensor = self.encoder(audio_signal=features, length=lengths)[0]
        return states
