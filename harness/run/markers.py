"""Spans as ranges of a profiler's timeline, under the same names."""

from __future__ import annotations

from typing import Any

from harness.spans import Marker, SpanRecorder


class NvtxMarker:
    """NVTX ranges: a quarter of a microsecond each when nobody listens, a row in Nsight when so."""

    def __init__(self) -> None:
        import nvtx

        self._nvtx = nvtx

    def push(self, name: str) -> None:
        self._nvtx.push_range(name)

    def pop(self) -> None:
        self._nvtx.pop_range()


class TorchMarker:
    """``record_function`` ranges, which the torch profiler writes into its trace."""

    def __init__(self) -> None:
        import torch

        self._record_function = torch.profiler.record_function
        self._open: Any = None

    def push(self, name: str) -> None:
        self._open = self._record_function(name)
        self._open.__enter__()

    def pop(self) -> None:
        self._open.__exit__(None, None, None)


def make_recorder(profiler: str) -> SpanRecorder:
    """A recorder whose ranges the named profiler understands."""
    return SpanRecorder(_marker(profiler))


def _marker(profiler: str) -> Marker:
    return TorchMarker() if profiler == "torch" else NvtxMarker()
