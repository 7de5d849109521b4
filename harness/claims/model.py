"""What a claim is and what comes of testing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """What this machine says about a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_HERE = "not here"
    CANNOT_RUN = "cannot run here"


@dataclass(frozen=True)
class Claim:
    """A published statement and the pair of choices that differ in nothing else."""

    number: int
    statement: str
    baseline: str
    variant: str
    rule: str
    """How the verdict follows from the measurement, said before it is made."""


@dataclass(frozen=True)
class Finding:
    """A claim's outcome. ``rows`` is a table in JSON types; ``plots`` are file names."""

    claim: Claim
    verdict: Verdict
    measured: str
    """In one sentence, with the interval."""
    rows: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    plots: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        claim = self.claim
        return {
            "number": claim.number,
            "claim": claim.statement,
            "baseline": claim.baseline,
            "variant": claim.variant,
            "rule": claim.rule,
            "verdict": str(self.verdict),
            "measured": self.measured,
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
            "plots": list(self.plots),
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class Bench:
    """Where a claim is tested and how long it may take."""

    folder: Path
    """Plots are written here."""
    cache_dir: Path
    repeats: int = 2
    """Processes of each variant, interleaved."""
    connections: int = 2000
    duration_s: float = 60.0
    objects: int = 1_000_000
    longest_s: float = 3600.0
    """Of the recordings that pass between processes."""
    requests: int = 60
    seed: int = 0
    say: Callable[[str], None] = lambda _line: None
    """Progress, for a person who waits."""


Test = Callable[[Bench], Finding]


def interleaved(first: str, second: str, repeats: int) -> list[str]:
    """ABBA order, so that drift of the machine falls on both alike: each ``repeats`` times."""
    order: list[str] = []
    for block in range(repeats):
        order.extend((first, second) if block % 2 == 0 else (second, first))
    return order
