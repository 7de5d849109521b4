"""What decoded audio is to become."""

from __future__ import annotations

from dataclasses import dataclass

MIXES = ("mean", "loudest", "left", "right")


@dataclass(frozen=True, slots=True)
class Target:
    """Mono by ``mix``, at ``sample_rate`` in Hz (None: the recording's own) with soxr's ``quality``."""

    mix: str = "mean"
    sample_rate: int | None = None
    quality: str = "HQ"
