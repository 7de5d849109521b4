"""Options of the decoders. They stand apart from what they configure, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.protocols.options import Count, NoOptions, Positive

CpuSynced = NoOptions


@dataclass(frozen=True, slots=True)
class Nemo:
    mode: Literal["full_graph", "no_while_loops", "no_graphs", "torch_impl"] = "full_graph"
    """Forced: no silent fallback."""


@dataclass(frozen=True, slots=True)
class StepGraph:
    poll_every: Positive = 8
    """Steps between two looks of the host at which windows have ended; up to as many are in vain."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the decoders of our own kernels take."""

    slots: Positive = 128
    """Utterances decoded at the same time; more wait their turn on the device."""
    columns: Positive = 16
    """Joint evaluations of a step that may be filled by looking ahead."""
    lookahead: Literal[1, 2, 4, 8] = 8
    """Frames evaluated ahead with one prediction."""
    cache_dir: str | None = None
    """Compiled kernels; null: in the user's cache folder."""


@dataclass(frozen=True, slots=True)
class ConditionalGraph(Kernels):
    unroll: Positive = 8
    """Steps in one pass through the graph's WHILE node."""


@dataclass(frozen=True, slots=True)
class Megakernel(Kernels):
    direct_columns: Positive = 1
    """Up to so many columns every block gathers the best token for itself."""
    spin_limit: Positive = 1 << 24
    """Polls before a wait is declared dead and the kernel traps (about ten seconds)."""
    profile_block: Count | None = None
    """A block whose cycles per phase go into the report; slows the kernel."""
