"""A measured process whose workload is live streams: the server, its clients, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.audio.decode import decode
from harness.audio.resample import resample
from harness.config.schema import RunConfig
from harness.corpus.manifest import AudioItem
from harness.errors import RequestError, UsageError
from harness.protocols.server import ServerEvidence
from harness.protocols.wire import Encoding, decode_samples
from harness.record import MEASURED, ProcessRecord, Sample
from harness.run.messages import Reporter
from harness.run.service import server_plan
from harness.workload.server_process import ServerProcess
from harness.workload.streaming import (
    SloStep,
    StreamingPlan,
    StreamingResult,
    StreamingSummary,
    fit,
    search_slo,
    stream_load,
    to_wire,
)

Samples = npt.NDArray[np.float32]
_STREAM_RATE = 16_000
_LONGEST_S = 600.0
_SEARCH_KEYS = ("slo_p95_s", "slo_most")


@dataclass(frozen=True)
class StreamOutcome:
    """What was seen, its figures in JSON types, and what the server said of itself."""

    result: StreamingResult
    figures: dict[str, Any]
    server: ServerEvidence


class StreamRun:
    """Streams the audio set's recordings against a server of the configuration's choices."""

    def __init__(
        self,
        config: RunConfig,
        items: Sequence[AudioItem],
        lengths_s: Sequence[float],
        warm_up_s: Sequence[float],
        seed: int,
    ) -> None:
        self._config = config
        self._server = server_plan(config, lengths_s, warm_up_s)
        self._recordings, self._items = _audible(items, config.frontend.resample_quality)
        options = {k: v for k, v in config.workload.options.items() if k not in _SEARCH_KEYS}
        self._plan = StreamingPlan.of(
            {
                **options,
                "connections": config.workload.requests,
                "lag_budget_s": config.workload.lag_budget_s,
                "seed": seed,
            }
        )

    def measure(self, reporter: Reporter) -> StreamOutcome:
        """Stream once, after searching the largest load where ``workload.search`` says so."""
        searched = self._search(reporter)
        result, ended = self._stream(self._plan, reporter)
        reporter.stage("the same recordings in one piece")
        figures = result.summary(self._expected_texts()).as_dict()
        if searched is not None:
            figures["search"] = searched
        return StreamOutcome(result, figures, ended)

    def rows(self, result: StreamingResult, record: ProcessRecord) -> list[Sample]:
        """One row per stream: from its end of speech to its final text."""
        due_ns = result.records.scheduled_ns.max(axis=1)
        return [
            _row(n, self._items[item], int(due_ns[n]), int(result.records.final_ns[n]), result, record)
            for n, item in enumerate(result.assigned)
        ]

    def _expected_texts(self) -> list[str]:
        """The final text of each recording, as the wire carries it, from an engine that is given it
        in one piece."""
        engine = self._server.spec.make_engine()
        encoding = Encoding[self._plan.encoding.upper()]
        texts = []
        for recording in self._recordings:
            sent = to_wire(fit(recording, self._plan), self._plan)
            stream = engine.open_stream()
            stream.push(decode_samples(memoryview(sent.tobytes()), encoding))
            texts.append(stream.commit().text)
        return texts

    def _search(self, reporter: Reporter) -> dict[str, Any] | None:
        options = self._config.workload.options
        if self._config.workload.search == "none":
            return None
        limit_s = float(options["slo_p95_s"])

        def measured(connections: int) -> StreamingSummary:
            reporter.stage(f"searching: {connections} live streams")
            return self._stream(replace(self._plan, connections=connections), reporter)[0].summary()

        def told(step: SloStep) -> None:
            reporter.stage(f"{step.connections} streams {'pass' if step.passed else 'fail'}: p95 {step.p95}")

        found = search_slo(measured, limit_s, self._plan.connections, int(options["slo_most"]), on_step=told)
        if found.largest:
            self._plan = replace(self._plan, connections=found.largest)
        return {"largest": found.largest, "smallest_failed": found.smallest_failed, **asdict(found)}

    def _stream(self, plan: StreamingPlan, reporter: Reporter) -> tuple[StreamingResult, ServerEvidence]:
        def begin() -> None:
            reporter.stage(f"{plan.connections} live streams for {plan.duration_s:.0f} s")

        with closing(ServerProcess(self._server, self._config.runner.silence_timeout_s)) as server:
            server.start(reporter.building)
            result = stream_load(server.address, self._recordings, plan, begin, reporter.counting)
            return result, server.stop()


def figures_text(figures: Mapping[str, Any]) -> str:
    """The figures of a streaming process for a terminal; seconds as milliseconds."""

    def ms(value: Any) -> str:
        """A measured percentile with its interval, a plain one, or why there is none."""
        if isinstance(value, Mapping):
            if "value" not in value:
                return f"n too small ({value['n']} of {value['needed']})"
            return f"{value['value'] * 1e3:.2f} [{value['low'] * 1e3:.2f}, {value['high'] * 1e3:.2f}] ms"
        return "n too small" if value is None else f"{value * 1e3:.2f} ms"

    rows = [
        ("streams", f"{figures['connections']}, of {figures['chunks']} chunks {figures['lost_chunks']} lost"),
        ("chunk latency p50", ms(figures["p50"])),
        ("chunk latency p95", ms(figures["p95"])),
        ("chunk latency p99", ms(figures["p99"])),
        ("jitter p50, p95", f"{ms(figures['jitter_p50_s'])}, {ms(figures['jitter_p95_s'])}"),
        ("first text p50, p95", f"{ms(figures['first_text_p50_s'])}, {ms(figures['first_text_p95_s'])}"),
        ("final text p50, p95", f"{ms(figures['final_p50_s'])}, {ms(figures['final_p95_s'])}"),
        ("worst stream's p95", ms(figures["worst_connection_p95_s"])),
        ("clients' lag p99", ms(figures["lag_p99_s"])),
    ]
    if search := figures.get("search"):
        limit = ms(search["limit_s"])
        rows.append(("largest load", f"{search['largest']} streams under a p95 of {limit}"))
    return "\n".join(f"{name:20} {text}" for name, text in rows)


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


def _audible(items: Sequence[AudioItem], quality: str) -> tuple[list[Samples], list[AudioItem]]:
    """The recordings that can be decoded, as float32 mono at 16 kHz. Clients speak, they do not decode."""
    found = []
    for item in items:
        try:
            audio = decode(item.read(), max_audio_s=_LONGEST_S)
            found.append((resample(audio, sample_rate=_STREAM_RATE, quality=quality).samples, item))
        except RequestError:
            continue
    if not found:
        raise UsageError("no recording of the audio set can be decoded: nothing to stream")
    return [samples for samples, _ in found], [item for _, item in found]


def _row(
    index: int, item: AudioItem, due_ns: int, final_ns: int, result: StreamingResult, record: ProcessRecord
) -> Sample:
    error = result.records.errors[index] or (None if final_ns else "no final text arrived")
    end_ns = final_ns or due_ns

    def seconds(at_ns: int) -> float:
        return (at_ns - record.epoch_ns) * 1e-9

    return Sample(
        process=record.index,
        phase=MEASURED,
        index=index,
        request_id=item.item_id,
        bucket=item.bucket,
        container=item.container,
        sample_rate=item.sample_rate or 0,
        channels=item.channels or 0,
        audio_s=result.plan.duration_s,
        speech_s=0.0,
        segments=1,
        scheduled_s=seconds(due_ns),
        dispatched_s=seconds(due_ns),
        started_s=seconds(due_ns),
        finished_s=seconds(end_ns),
        unaccounted_s=0.0,
        spans={},
        text=result.records.texts[index],
        reference_text=None,
        error=error,
    )
