"""Two runs side by side, once they have passed every check that a comparison needs.

The order of the checks is the order of trust: valid measurements, the same ground, the same
answers. Only then do speeds mean anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from harness.comparability import is_under, require_comparable
from harness.errors import InvalidMeasurementError
from harness.measure.change import Change, changes
from harness.measure.metrics import Kind, Metric, metric
from harness.measure.wer import compare_outputs
from harness.record import Parity, ParityStatus, Run, StoredRun, Tolerance, VerdictStatus

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
    "memory.rss",
    "memory.gpu",
)

_OTHER_OUTPUT = ("model", "dataset", "workload")
"""Subjects under which two runs need not say the same: each is held to its own reference only."""


@dataclass(frozen=True)
class Comparison:
    """``withheld`` says why the speeds may not be compared; then only WER and memory have changes."""

    a: StoredRun
    b: StoredRun
    changes: tuple[Change, ...]
    parity: Parity | None
    withheld: str | None


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
        parity = compare_outputs(a.measured, b.measured, allowed, a.run.variant)
    withheld = _withheld((a.run.parity, b.run.parity, parity)) or _failures(a, b)
    wanted = [metric(name) for name in DEFAULT_METRICS] if metrics is None else list(metrics)
    if withheld is not None:
        wanted = [m for m in wanted if m.kind in (Kind.WER, Kind.MEMORY)]
    return Comparison(a, b, tuple(changes(a, b, wanted)), parity, withheld)


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
    """A request that fails is fast: a run that fails more of them must not look faster for it."""
    rates = [len(run.failed) / max(1, len(run.failed) + len(run.measured)) for run in (a, b)]
    if set(a.failed["request_id"]) == set(b.failed["request_id"]):
        return None
    return (
        f"other requests fail in {b.run.run_id} ({rates[1]:.1%}) than in {a.run.run_id} ({rates[0]:.1%}); "
        "see the column error of their samples"
    )


def _withheld(parities: Sequence[Parity | None]) -> str | None:
    for parity in parities:
        if parity is not None and parity.status is not ParityStatus.SAME:
            return parity.message
    return None
