"""What a report says, before it has a form: labels, warnings, transcripts, headline figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.measure.cpu import disturbances
from harness.measure.ledger import unaccounted_share
from harness.measure.offline import mean_of, offline_figures
from harness.measure.stats import Estimate, TooSmall
from harness.measure.summary import Summary, figures_of
from harness.measure.telemetry import THROTTLING
from harness.measure.text import NOTHING, digits, duration, first_errors, gigabytes, number, seconds
from harness.record import Mode, ParityStatus, Run, StoredRun, Telemetry, VerdictStatus
from harness.same_ground import is_foreign

WITHHELD = "withheld"
WIDE_SHARE = 0.10
"""Half width of the interval of p50, relative, above which a run is called unstable."""


@dataclass(frozen=True)
class Entry:
    """One run of a report: the run, its figures, and a label that no other run of it has."""

    stored: StoredRun
    summary: Summary
    label: str

    @property
    def withheld(self) -> bool:
        """Whether its speed must not be shown: its answers are not known to be the reference's, though it
        was asked."""
        parity = self.stored.run.parity
        return parity is not None and parity.status is not ParityStatus.SAME

    @property
    def has_ledger(self) -> bool:
        """A live stream is not served in one piece: its rows have no spans. Those of an offline run are
        mostly the wait for its end."""
        return self.stored.run.mode not in (Mode.STREAMING, Mode.OFFLINE)

    @property
    def has_latency(self) -> bool:
        """Offline, what counts is when the last recording is done."""
        return self.stored.run.mode is not Mode.OFFLINE

    @property
    def drawable(self) -> bool:
        return self.summary.overall is not None and not self.withheld


@dataclass(frozen=True, slots=True)
class Spoken:
    """A transcript beside what was said; ``reference`` is ``None`` where nobody wrote it down."""

    request_id: str
    reference: str | None
    text: str


def entries(runs: Sequence[StoredRun]) -> list[Entry]:
    """The runs with their figures, labelled by variant, where variants repeat also by ``runner.label``, and
    by run where that is the same."""
    labels = [stored.run.variant for stored in runs]
    for finer in (_with_label, _with_run_id):
        labels = [
            finer(stored.run) if labels.count(label) > 1 else label
            for label, stored in zip(labels, runs, strict=True)
        ]
    return [Entry(stored, figures_of(stored), label) for label, stored in zip(labels, runs, strict=True)]


def _with_label(run: Run) -> str:
    return f"{run.variant} · {run.label}" if run.label else run.variant


def _with_run_id(run: Run) -> str:
    return f"{run.variant} · {run.run_id}"


EDITS = "I / D / S / words"
HEADER = (
    "run",
    "verdict",
    "requests",
    "p50",
    "p90",
    "p95",
    "p99",
    "RTF p50",
    "RTFx",
    "WER",
    EDITS,
    "memory",
)


def headline(entry: Entry) -> tuple[str, ...]:
    """The row of a run, cells as in ``HEADER``."""
    summary, overall = entry.summary, entry.summary.overall
    if overall is None or entry.withheld:
        speed = [WITHHELD if entry.withheld else NOTHING] * 6
    elif entry.has_latency:
        speed = [duration(overall.latency[q]) for q in ("p50", "p90", "p95", "p99")]
        speed += [number(overall.rtf["p50"]), number(summary.rtfx)]
    else:
        # Requests of a batch end together: an interval over requests would mean nothing.
        rtfx = summary.rtfx
        speed = [NOTHING] * 5 + [digits(rtfx.value) if isinstance(rtfx, Estimate) else NOTHING]
    requests = f"{summary.requests}" + (f" ({summary.failed} failed)" if summary.failed else "")
    return (
        entry.label,
        verdict_text(entry),
        requests,
        *speed,
        *_wer_cells(summary),
        memory_text(entry.stored),
    )


def _wer_cells(summary: Summary) -> tuple[str, str]:
    wer = summary.wer
    if wer is None or wer.point is None:
        return NOTHING, NOTHING
    edits = (
        f"{wer.errors.insertions} / {wer.errors.deletions} / {wer.errors.substitutions} / {wer.errors.words}"
    )
    if isinstance(wer.rate, TooSmall):
        return f"{wer.point:.1%} (n too small)", edits
    return f"{wer.point:.1%} [{wer.rate.low:.1%}, {wer.rate.high:.1%}]", edits


def memory_text(stored: StoredRun) -> str:
    memory = stored.run.memory
    if memory is None:
        return NOTHING
    gpu = f", GPU {gigabytes(memory.gpu_bytes)} (by {memory.gpu_method})" if memory.gpu_bytes else ""
    return gigabytes(memory.rss_bytes) + gpu


def verdict_text(entry: Entry) -> str:
    profiled = " (profiled)" if entry.stored.run.profiled else ""
    return f"{entry.stored.run.verdict.status}{profiled}"


def conditions(stored: StoredRun) -> str:
    """One line: what was measured, on what."""
    run, origin = stored.run, stored.run.provenance
    machine = ", ".join(gpu.name for gpu in origin.gpus) or f"{origin.cpu} ({origin.cpu_count} cores)"
    processes = len(run.processes)
    plural = "process" if processes == 1 else "processes"
    return (
        f"{origin.model.name} ({origin.model.weights} weights) · {origin.dataset.name} · "
        f"{run.mode} workload · {processes} {plural} · {machine}"
    )


def warnings(entry: Entry) -> Iterator[str]:
    """What a reader must know before quoting a figure, each with its remedy."""
    run, summary = entry.stored.run, entry.summary
    for reason in run.verdict.reasons:
        yield f"{run.verdict.status}: {reason.message}"
    if run.profiled:
        yield "profiled: the profiler slows what it observes; quote figures of a run with profiler=none"
    yield from (str(warning) for warning in run.summary.get("warnings", ()))
    yield from _failures(entry.stored)
    if is_valid(entry) and run.parity is None and summary.overall is not None:  # of an older version
        yield "the output was not compared with the eager reference; measure again"
    if len(run.processes) == 1:
        yield "one process: the intervals leave out how processes differ; set runner.processes=5"
    yield from disturbances([process.cpu for process in run.processes])
    if entry.has_latency:
        yield from _small_samples(summary)
        yield from _wide_interval(summary)
    yield from _strangers(run)
    yield from _throttling([telemetry for process in run.processes for telemetry in process.telemetry])


def _failures(stored: StoredRun) -> Iterator[str]:
    """Each recording that failed though nobody expected it to, once, with the first of its errors."""
    failed = stored.failed[~stored.failed["expect_failure"]]
    if failed.empty:
        return
    requests = len(stored.failed) + len(stored.measured)
    yield (
        f"{len(failed)} of {requests} requests failed, and are in no figure: {first_errors(failed)}; "
        "samples.parquet has each in its column error"
    )


def _strangers(run: Run) -> Iterator[str]:
    count = max((p.memory.strangers or 0 for p in run.processes if p.memory is not None), default=0)
    if count:
        yield (
            f"{count} other processes held memory of the GPU while this run was measured, and may have "
            "computed on it: end them (nvidia-smi lists them) and measure again"
        )


def _small_samples(summary: Summary) -> Iterator[str]:
    overall = summary.overall
    small = [] if overall is None else [q for q, f in overall.latency.items() if isinstance(f, TooSmall)]
    if small and overall is not None:
        worst = overall.latency[small[-1]]
        needed = worst.needed if isinstance(worst, TooSmall) else 0
        names = ", ".join(small)
        yield f"n too small for {names}; raise workload.requests until {needed} are measured in all"


def _wide_interval(summary: Summary) -> Iterator[str]:
    """Unstable: the interval of the median is so wide that few optimizations would show."""
    p50 = summary.overall.latency["p50"] if summary.overall else None
    if not isinstance(p50, Estimate):
        return
    half_width = (p50.high - p50.low) / 2 / p50.value
    if half_width > WIDE_SHARE:
        remedy = "raise runner.processes and workload.requests, and keep the machine otherwise idle"
        yield f"p50 is known to ±{half_width:.0%} only; {remedy}"


def _throttling(telemetries: Sequence[Telemetry]) -> Iterator[str]:
    """Of every process and device: a card that has cooled down when the first process measures is hot
    for the others."""
    readings = [
        set(sample.throttle_reasons) & THROTTLING
        for telemetry in telemetries
        for sample in telemetry.samples
        if sample.throttle_reasons is not None
    ]
    throttled = [names for names in readings if names]
    if throttled:
        names = ", ".join(sorted(set().union(*throttled)))
        share = len(throttled) / len(readings)
        remedy = "cool it or fix its clocks (nvidia-smi -lgc)"
        yield f"the GPU throttled ({names}) in {share:.0%} of readings; {remedy}"


def offline_rows(entry: Entry) -> list[tuple[str, str]]:
    """Name and figure of what an offline run is about; empty for others, and where speed is withheld."""
    of_each = [] if entry.has_latency or entry.withheld else offline_figures(entry.stored)
    if not of_each:
        return []
    found = mean_of(of_each)
    each = f" (each process: {', '.join(seconds(one.wall_s) for one in of_each)})" if len(of_each) > 1 else ""
    sizes = ", ".join(f"{count} of {size}" for size, count in sorted(found.batches.items()))
    of_any = [
        ("audio", f"{digits(found.audio_s / 3600)} h"),
        ("wall", f"{seconds(found.wall_s)}{each}, first byte read to last text"),
        ("not in it", f"{seconds(found.prepared_s)} of building and warming up"),
        ("hours an hour", digits(found.rtfx)),
    ]
    if is_foreign(entry.stored.run.config):
        return of_any  # the rest would be this client's
    return [
        *of_any,
        ("price", _or_unknown(found.usd_per_1000_h, "$ per 1,000 hours", "set cost.*_usd_per_hour")),
        ("energy", _or_unknown(found.energy_j_per_h, "J an hour of audio", "no device counts it")),
        ("device idle", f"{found.device_idle_share:.1%} of the wall time: neither encoder nor decoder ran"),
        ("padding", NOTHING if found.padding_share is None else f"{found.padding_share:.1%} of frames"),
        ("cores used", NOTHING if found.cores_used is None else digits(found.cores_used)),
        ("batches", f"{digits(found.mean_batch)} recordings in the mean: {sizes}"),
    ]


def _or_unknown(value: float | None, unit: str, why: str) -> str:
    return f"unknown ({why})" if value is None else f"{digits(value)} {unit}"


def transcripts(entry: Entry, count: int = 4) -> list[Spoken]:
    """A few transcripts, one per bucket first, recordings with a reference before others."""
    rows = entry.stored.measured.drop_duplicates("request_id")
    rows = rows[rows["text"].fillna("") != ""]
    if rows.empty:
        return []
    with_reference = rows["reference_text"].notna()
    chosen = pd.concat([rows[with_reference], rows[~with_reference]])
    turn = chosen.groupby("bucket").cumcount()
    chosen = chosen.assign(turn=turn).sort_values(["turn", "bucket"], kind="stable").head(count)
    return [
        Spoken(str(r.request_id), None if pd.isna(r.reference_text) else str(r.reference_text), str(r.text))
        for r in chosen.itertuples()
    ]


def unaccounted_text(entry: Entry) -> str:
    share = unaccounted_share(entry.stored.measured) if entry.has_ledger else None
    return NOTHING if share is None else f"{share:.2%} of p50"


def is_valid(entry: Entry) -> bool:
    return entry.stored.run.verdict.status is VerdictStatus.VALID
