"""A measured process whose workload is live streams: the server, its clients, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.audio.decode import decode
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.config.schema import RunConfig
from harness.corpus.buckets import bucket_label
from harness.corpus.manifest import AudioItem, AudioSet
from harness.errors import RequestError, UsageError
from harness.protocols.engine import hear
from harness.protocols.server import ServerEvidence
from harness.record import MEASURED, Memory, ProcessRecord, Sample
from harness.run.messages import Reporter
from harness.run.service import server_plan
from harness.spans import now_ns
from harness.target.realtime import foreign_plan, foreign_server, own_server
from harness.workload.server_process import ServerProcess
from harness.workload.streaming import (
    SloStep,
    StreamingPlan,
    StreamingResult,
    StreamingSummary,
    chunks,
    search_slo,
    stream_load,
)

Samples = npt.NDArray[np.float32]
_LONGEST_S = 600.0


@dataclass(frozen=True)
class StreamOutcome:
    """What was seen, its figures in JSON types, the server's memory while it served, and what it said
    of itself when it had ended."""

    result: StreamingResult
    figures: dict[str, Any]
    memory: Memory
    server: ServerEvidence


class StreamRun:
    """Streams the audio set's recordings against a server of the configuration's choices."""

    def __init__(
        self,
        config: RunConfig,
        audio: AudioSet,
        lengths_s: Sequence[float],
        warm_up_s: Sequence[float],
        seed: int,
    ) -> None:
        """Raises ``UsageError`` where no recording can be decoded."""
        self._config = config
        self._foreign = foreign_server(config.target) if config.target.is_foreign else None
        self._server = server_plan(config, lengths_s, warm_up_s)
        self._edges_s = audio.bucket_edges_s
        self._plan = StreamingPlan(
            **{**config.workload.options, **self._of_the_protocol()},
            connections=config.workload.requests,
            lag_budget_s=config.workload.lag_budget_s,
            seed=seed,
        )
        spoken = Target(sample_rate=self._plan.sample_rate, quality=config.frontend["resample_quality"])
        self._recordings, self._items, self.refused = _audible(audio.items, spoken)

    def _of_the_protocol(self) -> dict[str, Any]:
        """OpenAI's events acknowledge no chunk and carry 16-bit samples."""
        if self._foreign is not None:
            return foreign_plan()
        return {"acknowledged": False, "encoding": "s16le"} if self._server.io == "http" else {}

    def measure(self, reporter: Reporter, memory_of: Callable[[int], Memory]) -> StreamOutcome:
        """Stream once, after searching the largest load where ``workload.search`` says so.

        ``memory_of`` is asked for the memory of the server, by its pid, when the last stream has ended
        and the server still serves.
        """
        searched = self._search(reporter, memory_of)
        result, memory, ended = self._stream(self._plan, reporter, memory_of)
        figures = result.summary().as_dict()
        if searched is not None:
            figures["search"] = searched
        return StreamOutcome(result, figures, memory, ended)

    def rows(self, result: StreamingResult, record: ProcessRecord) -> list[Sample]:
        """One row per stream: from its end of speech to its final text."""
        due_ns = result.records.scheduled_ns.max(axis=1)
        rows = []
        for n, item in enumerate(result.assigned):
            final_ns = int(result.records.final_ns[n])
            error = result.records.errors[n] or (None if final_ns else "no final text arrived")
            times_ns = (int(due_ns[n]), final_ns or int(due_ns[n]))
            rows.append(self._row(n, self._items[item], times_ns, result.records.texts[n], record, error))
        return rows

    def reference(self, record: ProcessRecord, reporter: Reporter) -> Iterator[Sample]:
        """What this configuration's own engine answers to each recording, in this process: a stream
        that is given the chunks which clients send. A rolling window need not find the text of the
        whole recording, but the same chunks and contexts have one text."""
        reporter.stage("reference streams", len(self._recordings))
        engine = self._server.spec.make_engine()
        for n, (recording, item) in enumerate(zip(self._recordings, self._items, strict=True)):
            began_ns = now_ns()
            text = hear(engine, *chunks(recording, self._plan)).text
            yield self._row(n, item, (began_ns, now_ns()), text, record)
            reporter.progress(n + 1)

    def _row(
        self,
        index: int,
        item: AudioItem,
        times_ns: tuple[int, int],
        text: str,
        record: ProcessRecord,
        error: str | None = None,
    ) -> Sample:
        """``times_ns``: when the final text was due and when it came."""
        due_s, final_s = ((at_ns - record.epoch_ns) * 1e-9 for at_ns in times_ns)
        audio_s = (item.duration_s or 0.0) if self._plan.whole else self._plan.duration_s
        return Sample(
            process=record.index,
            phase=MEASURED,
            index=index,
            request_id=item.item_id,
            bucket=bucket_label(audio_s, self._edges_s),
            container=item.container,
            sample_rate=item.sample_rate or 0,
            channels=item.channels or 0,
            audio_s=audio_s,
            speech_s=0.0,
            segments=1,
            scheduled_s=due_s,
            dispatched_s=due_s,
            started_s=due_s,
            finished_s=final_s,
            unaccounted_s=0.0,
            spans={},
            text=text,
            reference_text=item.text if self._plan.whole else None,
            error=error,
        )

    def _search(self, reporter: Reporter, memory_of: Callable[[int], Memory]) -> dict[str, Any] | None:
        plan = self._plan
        if self._config.workload.search == "none":
            return None

        def measured(connections: int) -> StreamingSummary:
            reporter.stage(f"searching: {connections} live streams")
            wanted = replace(plan, connections=connections)
            return self._stream(wanted, reporter, memory_of)[0].summary()

        def told(step: SloStep) -> None:
            reporter.stage(f"{step.connections} streams {'pass' if step.passed else 'fail'}: p95 {step.p95}")

        found = search_slo(
            *(measured, plan.slo_p95_s, plan.connections, plan.slo_most),
            on_step=told,
            final_limit_s=plan.slo_final_p95_s,
        )
        if found.largest:
            self._plan = replace(plan, connections=found.largest)
        return {"largest": found.largest, "smallest_failed": found.smallest_failed, **asdict(found)}

    def _stream(
        self, plan: StreamingPlan, reporter: Reporter, memory_of: Callable[[int], Memory]
    ) -> tuple[StreamingResult, Memory, ServerEvidence]:
        def begin() -> None:
            length = "a recording each" if plan.whole else f"{plan.duration_s:.0f} s"
            reporter.stage(f"{plan.connections} live streams, {length}")

        if self._foreign is not None:
            result = stream_load(self._foreign, self._recordings, plan, begin, reporter.counting)
            return result, Memory(rss_bytes=None), self._foreign.evidence(result)
        with closing(ServerProcess(self._server, self._config.runner.silence_timeout_s)) as server:
            server.start(reporter.building)
            own = self._server.io == "http"
            to = own_server(server.address, plan.sample_rate) if own else server.address
            result = stream_load(to, self._recordings, plan, begin, reporter.counting)
            return result, memory_of(server.pid), server.stop()


def write_chunks(result: StreamingResult, path: Path) -> None:
    """Every chunk: when it was due, sent and acknowledged, in seconds from the start; 0 is never."""
    connections, chunks = result.records.scheduled_ns.shape
    columns = {
        "connection": np.repeat(np.arange(connections), chunks),
        "chunk": np.tile(np.arange(chunks), connections),
    }
    for name in ("scheduled", "sent", "acked"):
        at_ns = getattr(result.records, f"{name}_ns").ravel()
        columns[f"{name}_s"] = np.where(at_ns > 0, (at_ns - result.start_ns) * 1e-9, 0.0)
    pd.DataFrame(columns).to_parquet(path, compression="zstd")


def write_streams(result: StreamingResult, path: Path) -> None:
    """The figures of every stream, as ``StreamingResult.by_stream`` has them."""
    records = result.records
    of_all = {"recording": result.assigned, "retracted_words": records.retracted, "error": records.errors}
    pd.DataFrame({**of_all, **result.by_stream()}).to_parquet(path, compression="zstd")


def _audible(
    items: Sequence[AudioItem], target: Target
) -> tuple[list[Samples], list[AudioItem], dict[str, str]]:
    """The recordings that can be decoded, as ``target`` wants them, and why the others cannot be. Clients
    speak, they do not decode."""
    found, refused = [], {}
    for item in items:
        try:
            found.append((decode(item.read(), Limits(max_audio_s=_LONGEST_S), target).samples, item))
        except RequestError as error:
            refused[item.item_id] = str(error)
    if not found:
        raise UsageError("no recording of the audio set can be decoded: nothing to stream")
    return [samples for samples, _ in found], [item for _, item in found], refused
