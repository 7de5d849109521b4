"""What the hardware allows at best: the floor beside a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Of one GPU, as measured there."""

    bytes_per_s: float
    """Device memory, a large copy."""
    flop_per_s: float
    """Matrix products in 16 bits."""
    hop_s: float
    """One word from one multiprocessor to another through L2: half a round trip."""


H100 = Ceiling(bytes_per_s=3.0e12, flop_per_s=8.0e14, hop_s=0.30e-6)
