"""Live streams in real time: many connections, each speaking on its own absolute schedule.

A chunk is due when its last sample has been spoken; its latency runs from then until the server
has acknowledged it, so that a stall is charged to every chunk it delayed. Clients run in processes
of their own, one epoll loop each. A run whose clients themselves were late is INVALID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import UsageError
from harness.measure.stats import Measured, TooSmall, minimum_samples, nearest_rank
from harness.protocols import BuildProgress, silent
from harness.protocols.children import Child, Doing
from harness.protocols.sockets import Address
from harness.protocols.wire import Encoding
from harness.spans import now_ns
from harness.workload.client import REFUSED, Script, StreamRecords
from harness.workload.intervals import block_percentiles
from harness.workload.options import StreamingOptions
from harness.workload.search import bracket

Samples = npt.NDArray[np.float32]
QS = (0.5, 0.95, 0.99)
_START_MARGIN_S = 0.2
_STOP_S = 3.0
"""For a client to stop and to say what it has seen."""
_STEP = {Encoding.S16LE.name: np.float32(1 / 32768), Encoding.F32LE.name: np.float32(1)}


@dataclass(frozen=True)
class StreamingPlan(StreamingOptions):
    """A live-stream workload. Its schedule depends on these values alone."""

    connections: int = 100
    seed: int = 0
    lag_budget_s: float = 0.005
    """The p99 lag of the clients above which the run is INVALID."""
    sample_rate: int = 16_000
    whole: bool = False
    """Every recording is spoken once, as long as it is, rather than repeated or cut to ``duration_s``."""
    acknowledged: bool = True
    """Whether the protocol acknowledges chunks. One that does not answers the end of speech alone: then that
    chunk's latency, until the final text, is all that is known."""


@dataclass(frozen=True)
class Share:
    """What one client process speaks: see ``harness.workload.client.Script``."""

    recordings: tuple[npt.NDArray[np.generic], ...]
    assigned: tuple[int, ...]
    offsets_s: tuple[float, ...]
    plan: StreamingPlan


class Wire(Protocol):
    """How clients reach a server: the main of their processes, and what it is told."""

    @property
    def main(self) -> str:
        """``"module:function"`` of a process that answers ``StreamRecords`` (``client.run_client``)."""
        ...

    def script(self, share: Share) -> Any:
        """Picklable."""
        ...


@dataclass(frozen=True)
class OwnWire:
    """The protocol of ``harness.protocols.wire``."""

    address: Address
    main: str = "harness.workload.client:run_client"

    def script(self, share: Share) -> Script:
        plan = share.plan
        return Script(
            address=self.address,
            recordings=share.recordings,
            assigned=share.assigned,
            offsets_s=share.offsets_s,
            chunk_s=plan.chunk_s,
            sample_rate=plan.sample_rate,
            encoding=Encoding[plan.encoding.upper()],
            ack_every=plan.ack_every,
            speed=plan.speed,
            final_timeout_s=plan.final_timeout_s,
        )


# ---------------------------------------------------------------- the load


def stream_load(
    to: Address | Wire,
    recordings: Sequence[Samples],
    plan: StreamingPlan,
    begin: Callable[[], None] = lambda: None,
    progress: BuildProgress = silent,
) -> StreamingResult:
    """Stream ``recordings`` (float32 mono at ``plan.sample_rate``) as ``plan`` says; ``begin`` is called when
    all are connected, ``progress`` with what each client process has seen so far.

    Blocks until every stream has ended. Raises ``HarnessError`` when a client process fails, and
    ``StreamsInterrupted`` with what was seen until then; what happens to single streams is in the result.
    """
    own = tuple(to_wire(fit(recording, plan), plan) for recording in recordings)
    if not own:
        raise UsageError("no recording to stream: the audio set is empty")
    assigned, offsets_s = schedule(plan, len(own))
    slices = [slice(n, None, plan.client_processes) for n in range(plan.client_processes)]
    shares = [Share(own, tuple(assigned[part]), tuple(offsets_s[part]), plan) for part in slices]
    order = np.concatenate([np.arange(plan.connections)[part] for part in slices])
    wire = OwnWire(to) if isinstance(to, Address) else to
    with _clients(wire, shares) as clients:
        for client in clients:
            client.answer()  # connected
        begin()
        start_ns = now_ns() + int(_START_MARGIN_S * 1e9)

        def result(records: Sequence[StreamRecords]) -> StreamingResult:
            return StreamingResult(plan, start_ns, assigned, _merged(records, order))

        for client in clients:
            client.send(start_ns)
        records: dict[Child, StreamRecords] = {}
        try:
            _collect(clients, records, progress)
        except KeyboardInterrupt as error:
            for client in clients:
                client.send("stop")
            _collect(clients, records, silent)
            raise StreamsInterrupted(result([records[client] for client in clients])) from error
    return result([records[client] for client in clients])


def _collect(clients: Sequence[Child], records: dict[Child, StreamRecords], progress: BuildProgress) -> None:
    """Fill in what is missing, in whichever order it comes. Raises what ended a client at once."""
    while missing := [client for client in clients if client not in records]:
        ready = wait([client.control for client in missing])
        for client in (client for client in missing if client.control in ready):
            said = client.hear()
            if isinstance(said, Doing):
                progress(*said)
            else:
                records[client] = said


class StreamsInterrupted(KeyboardInterrupt):
    """The run was ended while streams were under way; ``result`` is what had been seen."""

    def __init__(self, result: StreamingResult) -> None:
        super().__init__()
        self.result = result


def schedule(plan: StreamingPlan, recordings: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Which recording each connection speaks, and when it begins: ``[C]`` and ``[C]`` seconds."""
    rng = np.random.default_rng(plan.seed)
    spread_s = plan.start_spread_s or plan.chunk_s / plan.speed
    return rng.integers(0, recordings, plan.connections), rng.uniform(0.0, spread_s, plan.connections)


def fit(recording: Samples, plan: StreamingPlan) -> Samples:
    """What the server hears of a recording: repeated or cut to the plan's duration, in the steps of the
    wire's encoding."""
    length = len(recording) if plan.whole else round(plan.duration_s * plan.sample_rate)
    if recording.ndim != 1 or len(recording) == 0:
        raise UsageError(f"a stream needs mono samples [n]; this recording has shape {recording.shape}")
    step = _STEP[plan.encoding.upper()]
    heard = np.multiply(to_wire(np.resize(recording, length), plan), step, dtype=np.float32)
    return np.asarray(heard)


def chunks(recording: Samples, plan: StreamingPlan) -> Iterator[Samples]:
    """What the server hears of a recording, as clients cut it; the last chunk may be shorter."""
    heard = fit(recording, plan)
    size = max(1, round(plan.chunk_s * plan.sample_rate))
    for start in range(0, len(heard), size):
        yield heard[start : start + size]


def to_wire(samples: Samples, plan: StreamingPlan) -> npt.NDArray[np.generic]:
    """Samples in the wire's encoding; exact for what ``fit`` returns."""
    if plan.encoding.upper() == Encoding.F32LE.name:
        return samples.astype("<f4")
    return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype="<i2")


@contextmanager
def _clients(wire: Wire, shares: Sequence[Share]) -> Iterator[list[Child]]:
    """A process for each share; none is left behind."""
    clients: list[Child] = []
    try:
        for number, share in enumerate(shares):
            clients.append(Child(wire.main, wire.script(share), f"client {number}"))
        yield clients
    finally:
        for client in clients:
            client.ask_to_end()
        for client in clients:
            client.end(_STOP_S)


def _merged(records: Sequence[StreamRecords], order: npt.NDArray[np.int64]) -> StreamRecords:
    """Records of all processes, in the order of the plan's connections."""
    back = np.argsort(order)
    arrays = {
        name: np.concatenate([getattr(record, name) for record in records])[back]
        for name in ("scheduled_ns", "sent_ns", "acked_ns", "first_text_ns", "final_ns", "retracted")
    }
    texts = [text for record in records for text in record.texts]
    errors = [error for record in records for error in record.errors]
    return StreamRecords(
        **arrays,
        texts=tuple(texts[i] for i in back),
        errors=tuple(errors[i] for i in back),
        refused_sends=sum(record.refused_sends for record in records),
        cpu_s=sum(record.cpu_s for record in records),
    )


# ---------------------------------------------------------------- what came of it


@dataclass(frozen=True)
class StreamingResult:
    """Everything that was seen. Latencies are seconds; a chunk that was lost has none."""

    plan: StreamingPlan
    start_ns: int
    assigned: npt.NDArray[np.int64]
    """[C], the recording of each connection."""
    records: StreamRecords

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """[C, K], the chunks that were acknowledged."""
        return self.records.acked_ns > 0

    @property
    def lost_chunks(self) -> int:
        """Chunks of the schedule that were to be acknowledged and were not, sent or not. A stream that was
        refused had none to lose."""
        taken = np.array([not error.startswith(REFUSED) for error in self.records.errors])
        due = (self.records.scheduled_ns > 0) & taken[:, None]
        if not self.plan.acknowledged:
            due = due & (self.records.scheduled_ns == self.records.scheduled_ns.max(axis=1, keepdims=True))
        return int(np.sum(due & ~self.answered))

    @property
    def latencies_s(self) -> npt.NDArray[np.float64]:
        """[n], of every acknowledged chunk from its scheduled time."""
        return self._latency_grid()[self.answered]

    @property
    def scheduled_s(self) -> npt.NDArray[np.float64]:
        """[n], when the same chunks were due, from the start of the run."""
        return _seconds(self.records.scheduled_ns[self.answered] - self.start_ns)

    @property
    def lags_s(self) -> npt.NDArray[np.float64]:
        """[n], how late the clients were with each chunk they sent."""
        sent = self.records.sent_ns > 0
        return _seconds(self.records.sent_ns[sent] - self.records.scheduled_ns[sent])

    def by_stream(self) -> dict[str, npt.NDArray[np.float64]]:
        """``[C]`` of each figure of single streams, NaN where one has none.

        ``jitter_s``: the mean change of latency from chunk to chunk (the interarrival jitter of RFC 3550,
        section 6.4.1, as a plain mean). ``first_text_s``: from its first sample. ``final_s``: from its end of
        speech. ``real_time_factor``: from its first sample to its final text, over its speech; 1 is as it was
        spoken. ``latency_p95_s``: of its own chunks.
        """
        records = self.records
        spoken_ns = records.scheduled_ns.max(axis=1)
        # A stream's first chunk is due when it has been spoken.
        first_s = min(self.plan.chunk_s, self.plan.duration_s) / self.plan.speed
        begun_ns = records.scheduled_ns[:, 0] - round(first_s * 1e9)
        first_text_s = _since(begun_ns, records.first_text_ns)
        served_s = _since(begun_ns, records.final_ns)
        rows = [row[seen] for row, seen in zip(self._latency_grid(), self.answered, strict=True)]
        return {
            "jitter_s": self._jitters(),
            "first_text_s": first_text_s,
            "final_s": _since(spoken_ns, records.final_ns),
            "real_time_factor": served_s / _seconds(spoken_ns - begun_ns),
            "latency_p95_s": np.array([nearest_rank(row, 0.95) if len(row) else np.nan for row in rows]),
        }

    def _jitters(self) -> npt.NDArray[np.float64]:
        change = np.abs(np.diff(self._latency_grid(), axis=1))
        seen = self.answered[:, 1:] & self.answered[:, :-1]
        counts = seen.sum(axis=1)
        sums = np.where(seen, change, 0.0).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def wrong_texts(self, expected: Sequence[str]) -> int:
        """Streams whose final text is not that of their recording."""
        texts = self.records.texts
        return sum(text != expected[i] for text, i in zip(texts, self.assigned, strict=True))

    def summary(self, expected: Sequence[str] | None = None) -> StreamingSummary:
        """The figures and the verdict. ``expected[i]`` is the final text of recording ``i``."""
        lag_p99 = nearest_rank(self.lags_s, 0.99) if len(self.lags_s) else 0.0
        refused = [error for error in self.records.errors if error.startswith(REFUSED)]
        failed = [error for error in self.records.errors if error and not error.startswith(REFUSED)]
        wrong = 0 if expected is None else self.wrong_texts(expected)
        reasons = []
        if lag_p99 > self.plan.lag_budget_s:
            budget_ms = self.plan.lag_budget_s * 1e3
            reasons.append(f"the clients were late: p99 lag {lag_p99 * 1e3:.1f} ms, budget {budget_ms:g} ms")
        if refused:
            reasons.append(f"{len(refused)} streams were refused; the first: {refused[0]}")
        if failed:
            reasons.append(f"{len(failed)} streams failed; the first: {failed[0]}")
        if self.lost_chunks:
            reasons.append(f"{self.lost_chunks} chunks were not acknowledged")
        if wrong:
            reasons.append(f"{wrong} streams got a text that is not their recording's")
        blocks = self.scheduled_s.astype(np.int64)
        streams = {name: values[~np.isnan(values)] for name, values in self.by_stream().items()}
        p50, p95, p99 = block_percentiles(self.latencies_s, blocks, QS)
        return StreamingSummary(
            connections=self.plan.connections,
            chunks=int(np.sum(self.records.scheduled_ns > 0)),
            lost_chunks=self.lost_chunks,
            failed_streams=len(failed),
            refused_streams=len(refused),
            wrong_texts=wrong if expected is not None else None,
            refused_sends=self.records.refused_sends,
            lag_p99_s=lag_p99,
            p50=p50,
            p95=p95,
            p99=p99,
            max_s=float(self.latencies_s.max(initial=0.0)),
            jitter_p50_s=_percentile(streams["jitter_s"], 0.5),
            jitter_p95_s=_percentile(streams["jitter_s"], 0.95),
            first_text_p50_s=_percentile(streams["first_text_s"], 0.5),
            first_text_p95_s=_percentile(streams["first_text_s"], 0.95),
            final_p50_s=_percentile(streams["final_s"], 0.5),
            final_p95_s=_percentile(streams["final_s"], 0.95),
            final_max_s=float(streams["final_s"].max(initial=0.0)),
            real_time_factor_max=float(streams["real_time_factor"].max(initial=0.0)),
            retracted_words=int(self.records.retracted.sum()),
            retracting_streams=int(np.sum(self.records.retracted > 0)),
            final_words=sum(len(text.split()) for text in self.records.texts),
            worst_connection_p95_s=float(streams["latency_p95_s"].max(initial=0.0)),
            client_cpu_s=self.records.cpu_s,
            late=lag_p99 > self.plan.lag_budget_s,
            acknowledged=self.plan.acknowledged,
            reasons=tuple(reasons),
        )

    def _latency_grid(self) -> npt.NDArray[np.float64]:
        return _seconds(self.records.acked_ns - self.records.scheduled_ns)


def _seconds(nanoseconds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(nanoseconds * 1e-9, dtype=np.float64)


def _since(begun_ns: npt.NDArray[np.int64], happened_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds until then; NaN where it never happened."""
    return np.where(happened_ns > 0, _seconds(happened_ns - begun_ns), np.nan)


def _percentile(values: npt.NDArray[np.float64], q: float) -> float | None:
    """None below the sample size at which the percentile can be bounded."""
    return nearest_rank(values, q) if len(values) >= minimum_samples(q) else None


@dataclass(frozen=True)
class StreamingSummary:
    """The figures of one streaming run; ``reasons`` says why it is INVALID, if it is."""

    connections: int
    chunks: int
    lost_chunks: int
    failed_streams: int
    wrong_texts: int | None
    refused_sends: int
    lag_p99_s: float
    p50: Measured
    p95: Measured
    p99: Measured
    max_s: float
    jitter_p50_s: float | None
    jitter_p95_s: float | None
    first_text_p50_s: float | None
    first_text_p95_s: float | None
    final_p50_s: float | None
    final_p95_s: float | None
    worst_connection_p95_s: float
    client_cpu_s: float
    late: bool = False
    """The clients were late: nothing is known about the server."""
    final_max_s: float = 0.0
    real_time_factor_max: float = 0.0
    """Of the worst stream: above 1 by what it was late, over its speech."""
    retracted_words: int = 0
    """That were shown and taken back by a later text."""
    retracting_streams: int = 0
    final_words: int = 0
    refused_streams: int = 0
    """That the server had no room for, and said so at once."""
    acknowledged: bool = True
    """Whether latencies are those of chunks; else they are those from the end of speech to the final text."""
    reasons: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return asdict(self) | {"valid": self.valid}


# ---------------------------------------------------------------- the largest load under a limit


@dataclass(frozen=True)
class SloStep:
    """One load that was tried. ``passed``: the run was valid and its p95 under the limit."""

    connections: int
    p95: Measured
    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class SloResult:
    """``largest`` passed and ``smallest_failed`` did not; either is None where none was found."""

    limit_s: float
    steps: tuple[SloStep, ...]
    final_limit_s: float = 0.0
    """Of the time to the final text; 0: none."""

    @property
    def largest(self) -> int | None:
        failed = self.smallest_failed
        passed = [step.connections for step in self.steps if step.passed]
        return max((n for n in passed if failed is None or n < failed), default=None)

    @property
    def smallest_failed(self) -> int | None:
        return min((step.connections for step in self.steps if not step.passed), default=None)


def search_slo(
    measure: Callable[[int], StreamingSummary],
    limit_s: float,
    start: int,
    most: int,
    resolution: float = 0.05,
    on_step: Callable[[SloStep], None] = lambda _step: None,
    final_limit_s: float = 0.0,
) -> SloResult:
    """The largest number of connections up to ``most`` whose p95 stays under ``limit_s``, and the time to
    whose final texts under ``final_limit_s`` where that is not 0.

    Found by ``bracket``. A run that is INVALID counts as failed, with its reason.
    """
    steps: list[SloStep] = []

    def passes(connections: int) -> bool:
        step = _step(connections, measure(connections), limit_s, final_limit_s)
        steps.append(step)
        on_step(step)
        return step.passed

    bracket(passes, start, most, resolution)
    return SloResult(limit_s, tuple(steps), final_limit_s)


def _step(connections: int, summary: StreamingSummary, limit_s: float, final_limit_s: float) -> SloStep:
    reasons = list(summary.reasons)
    if isinstance(summary.p95, TooSmall):
        reasons.append(f"{summary.p95.n} chunks are too few for p95: {summary.p95.needed} are needed")
    elif summary.p95.value > limit_s:
        reasons.append(f"p95 {summary.p95.value * 1e3:.1f} ms over the limit of {limit_s * 1e3:g} ms")
    of, final_s = "the p95", summary.final_p95_s
    if final_s is None:
        of, final_s = "the longest", summary.final_max_s
    if 0 < final_limit_s < final_s:
        reasons.append(
            f"{of} time to a final text {final_s * 1e3:.0f} ms over the limit of {final_limit_s * 1e3:g} ms"
        )
    return SloStep(connections, summary.p95, not reasons, tuple(reasons))
