"""Two runs side by side, once they have passed every check that a comparison needs.

The order of the checks is the order of trust: valid measurements, the same ground, the same
answers. Only then do speeds mean anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from harness.errors import InvalidMeasurementError
from harness.measure.contrast import Shares, holm
from harness.measure.effects import Effect, effects, failure_shares, failures_by_recording
from harness.measure.metrics import Metric, metric
from harness.measure.spelling import spelled
from harness.measure.stats import CONFIDENCE
from harness.measure.wer import compare_outputs
from harness.record import Parity, ParityStatus, Run, StoredRun, Tolerance, VerdictStatus
from harness.same_ground import is_under, require_comparable

DEFAULT_METRICS = (
    "latency.p50",
    "latency.p90",
    "latency.p95",
    "latency.p99",
    "span.encoder.p50",
    "span.decoder.p50",
    "rtf.p50",
    "rtfx",
    "wer",
    "failures",
    "memory.rss",
    "memory.gpu",
)

_ACCIDENT = 0.01
"""Failures differ where chance alone would seldom part them so far."""
_WHERE_FAILURES_ARE = "see the column error of their samples"
_OTHER_OUTPUT = ("model", "dataset", "workload", "target")
"""Subjects under which two runs need not say the same: each is held to its own reference only."""


@dataclass(frozen=True)
class Comparison:
    """``withheld`` says why the speeds may not be compared; then only the others have effects."""

    a: StoredRun
    b: StoredRun
    effects: tuple[Effect, ...]
    parity: Parity | None
    withheld: str | None

    @property
    def interleaved(self) -> bool:
        return self.a.run.series is not None and self.a.run.series == self.b.run.series


def compare_runs(
    a: StoredRun,
    b: StoredRun,
    metrics: Sequence[Metric] | None = None,
    *,
    subjects: Collection[str] = (),
    tolerance: Tolerance | None = None,
) -> Comparison:
    """Compare B with A.

    ``tolerance`` replaces what the variants declare. Raises ``InvalidMeasurementError`` for a run
    that may not be quoted and ``NotComparableError`` for runs on different ground.
    """
    for stored in (a, b):
        require_quotable(stored.run)
    require_comparable(a.run, b.run, subjects)
    parity = None
    if not any(is_under(subject, _OTHER_OUTPUT) for subject in subjects):
        allowed = tolerance or looser(a.run.tolerance, b.run.tolerance)
        parity = compare_outputs(_spelled(a), _spelled(b), allowed, a.run.variant)
    withheld = _withheld((a.run.parity, b.run.parity, parity)) or _failures(a, b)
    wanted = [metric(name) for name in DEFAULT_METRICS] if metrics is None else list(metrics)
    if withheld is not None:
        wanted = [m for m in wanted if not m.is_speed]
    return Comparison(a, b, tuple(effects(a, b, wanted)), parity, withheld)


def _spelled(stored: StoredRun) -> pd.DataFrame:
    return spelled(stored.measured, stored.run.config)


def require_quotable(run: Run) -> None:
    """Raise ``InvalidMeasurementError`` for a profiled, interrupted or invalid run."""
    if run.profiled:
        raise InvalidMeasurementError(
            f"{run.run_id} was profiled, which slows it; measure again with profiler=none"
        )
    if run.verdict.status is not VerdictStatus.VALID:
        reasons = "; ".join(f"{r.rule}: {r.message}" for r in run.verdict.reasons) or "it never finished"
        raise InvalidMeasurementError(f"{run.run_id} is {run.verdict.status}: {reasons}")


def looser(first: Tolerance, second: Tolerance) -> Tolerance:
    """The tolerance of the variant that is allowed to differ more from the reference."""
    allowed = [t.max_wer_difference or 0.0 for t in (first, second) if t.kind == "wer"]
    return replace(first, kind="wer", max_wer_difference=max(allowed)) if allowed else Tolerance()


def _failures(a: StoredRun, b: StoredRun) -> str | None:
    """A request that fails is fast: a run that fails more of them, of all or of one recording, must not
    look faster for it, nor one slower that fails fewer."""
    shares = failure_shares(a, b)
    if shares is None or not shares.failed_a + shares.failed_b:
        return None
    if _likeliest_by_accident(shares) <= _ACCIDENT:
        return f"other requests fail in {b.run.run_id}: {_shares_text(shares)}; {_WHERE_FAILURES_ARE}"
    recordings = failures_by_recording(a, b)
    chances = holm([_likeliest_by_accident(shares) for shares in recordings.values()])
    apart = [name for name, chance in zip(recordings, chances, strict=True) if chance <= _ACCIDENT]
    if not apart:
        return None
    first = _shares_text(recordings[apart[0]])
    return f"{apart[0]} fails otherwise in {b.run.run_id}: {first}; {_WHERE_FAILURES_ARE}"


def _likeliest_by_accident(shares: Shares) -> float:
    """Two-sided: twice the smaller of both directions' chances."""
    return min(1.0, 2 * min(shares.p_above(), shares.swapped().p_above()))


def _shares_text(shares: Shares) -> str:
    low, high = shares.interval(CONFIDENCE)
    return (
        f"{shares.failed_b} of {shares.n_b} (the other run {shares.failed_a} of {shares.n_a}, "
        f"a difference of {shares.value * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}] points)"
    )


def _withheld(parities: Sequence[Parity | None]) -> str | None:
    for parity in parities:
        if parity is not None and parity.status is not ParityStatus.SAME:
            return parity.message
    return None
