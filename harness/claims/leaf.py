"""What a leaf of ``conf/claims`` says: a claim, the pair that tests it, and how the verdict follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.measure.metrics import ALL, Metric, metric
from harness.paths import conf_dir
from harness.record.codec import from_json
from harness.yaml_file import read_yaml


@dataclass(frozen=True)
class Condition:
    """What the candidate's figure has to be, as a share of the baseline's.

    ``saves_s`` states it in seconds instead: the baseline's figure less the candidate's.
    """

    metric: str
    scope: str = ALL
    at_most: float | None = None
    at_least: float | None = None
    saves_s: float | None = None

    def __str__(self) -> str:
        where = "" if self.scope == ALL else f" in {self.scope}"
        limits = (("at most", self.at_most), ("at least", self.at_least))
        said = [f"{how} {share:g} of the baseline's" for how, share in limits if share is not None]
        if self.saves_s is not None:
            said.append(f"{self.saves_s * 1e3:g} ms or more below the baseline's")
        return f"{self.metric}{where} {' and '.join(said)}"


@dataclass(frozen=True)
class Reference:
    """Which of the committed results of named machines speak of the claim.

    ``parts`` names the JSON of a benchmark of single parts, in which ``baseline`` and ``candidate`` are
    the pair and ``beside`` a third that explains them; ``memory`` those that say what each part holds.
    """

    parts: str | None = None
    baseline: str = ""
    candidate: str = ""
    beside: str | None = None
    memory: tuple[str, ...] = ()


@dataclass(frozen=True)
class Within:
    """What one offline run has to come to: at least so much audio, from the first byte read to the last
    text in at most so many seconds, in every one of its processes."""

    audio_s: float
    holds_s: float
    partly_s: float

    def __str__(self) -> str:
        audio = f"{self.audio_s / 3600:g} h of audio in at most"
        return f"reproduced: {audio} {self.holds_s:g} s. Partly: in at most {self.partly_s:g} s"


@dataclass(frozen=True)
class Leaf:
    """One claim. ``holds`` needs all of its conditions, ``partly`` one of them. A claim ``within`` a time has
    neither, and no baseline.

    Each side is measured with ``common``, its own overrides and, in a quick test, ``quick``.
    ``not_serving_decides``: a baseline that cannot serve what the candidate serves makes the claim hold.
    ``not_built`` says what this version lacks to test it.
    """

    claim: str
    candidate: tuple[str, ...]
    baseline: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    holds: tuple[Condition, ...] = ()
    partly: tuple[Condition, ...] = ()
    shown: tuple[str, ...] = ()
    not_serving_decides: bool = False
    not_built: str | None = None
    within: Within | None = None
    reference: Reference = field(default_factory=Reference)

    def pair(self, overrides: Sequence[str] = (), quick: bool = False) -> tuple[list[str], list[str]]:
        """The overrides of both sides, none of a baseline that there is not; of two with the same key the
        later one stands."""
        after = (*(self.quick if quick else ()), *overrides)
        baseline, candidate = (
            _latest((*self.common, *own, *after)) for own in (self.baseline, self.candidate)
        )
        return (baseline if self.within is None else []), candidate

    @property
    def metrics(self) -> list[Metric]:
        """Everything that a condition speaks of, then what is shown beside it."""
        judged = [condition.metric for condition in (*self.holds, *self.partly)]
        return [metric(name) for name in dict.fromkeys((*judged, *self.shown))]

    @property
    def rule(self) -> str:
        """In words, from the conditions themselves."""
        if self.not_built is not None:
            return "none yet"
        if self.within is not None:
            return str(self.within)
        holds = " and ".join(map(str, self.holds))
        if self.not_serving_decides:
            holds += ", or the baseline cannot serve what the candidate serves"
        partly = " or ".join(map(str, self.partly))
        return (
            f"reproduced: {holds}. Partly: {partly}. The whole 95 % interval has to lie there; not here: it "
            "lies wholly elsewhere; undecided: it straddles the limit"
        )


def read_leaves(folder: Path | None = None) -> dict[int, Leaf]:
    """Every claim by its number. Raises ``UsageError`` naming the file and the key."""
    found = (folder or conf_dir() / "claims").glob("*.yaml")
    return {int(path.stem): read_leaf(path) for path in sorted(found, key=lambda path: int(path.stem))}


def read_leaf(path: Path) -> Leaf:
    leaf: Leaf = from_json(Leaf, read_yaml(path), str(path))
    conditions = (*leaf.holds, *leaf.partly)
    if leaf.not_built is None and leaf.within is None and not (leaf.baseline and leaf.holds and leaf.partly):
        raise UsageError(
            f"{path}: needs 'baseline' and conditions in 'holds' and in 'partly', or 'within', or 'not_built'"
        )
    if empty := [c for c in conditions if (c.at_most, c.at_least, c.saves_s) == (None, None, None)]:
        raise UsageError(f"{path}: {empty[0].metric} needs at_most, at_least or saves_s")
    try:
        _ = leaf.metrics
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return leaf


def _latest(overrides: Sequence[str]) -> list[str]:
    by_key: Mapping[str, str] = {override.partition("=")[0]: override for override in overrides}
    return list(by_key.values())
