"""What the harness itself costs per request: ``python -m harness.measure.overhead``.

A service whose stages do nothing is driven through the real loop, span recorder, ledger and
journal. *On the clock* is what a request's latency contains of the harness: opening and closing
every span, passing the stages, building the reply. *Between requests* is the rest (ledger, row,
journal), which a closed loop does not see and an open loop at full load does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.arguments import positive_integer
from harness.command import command
from harness.corpus.manifest import AudioItem
from harness.measure.stats import nearest_rank
from harness.protocols import Engine, Evidence, Request, Segment, ServiceSpec, Stream, Transcript
from harness.record import MEASURED, Journal, ProcessRecord
from harness.run.markers import make_recorder
from harness.run.samples import to_sample
from harness.spans import SpanRecorder, now_ns
from harness.workload.loops import Completed, closed_loop
from variants.registry import load

_STAGES = ("decode", "resample", "denoise", "vad", "segment")


class EmptyFrontend:
    """The five stages, each with nothing to do."""

    def __init__(self) -> None:
        self._segments = [Segment(np.zeros(1, np.float32), 16_000, 0.0)]

    @property
    def stages(self) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        return [(name, lambda value: value) for name in _STAGES]

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[Segment]:  # noqa: ARG002
        for name in _STAGES:
            with spans.span(name):
                pass
        return self._segments


class EmptyInference:
    """The four spans of a model, each with nothing to do."""

    def transcribe(
        self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder
    ) -> Sequence[Transcript]:
        for name in ("features", "encoder", "decoder", "text"):
            with spans.span(name):
                pass
        return [Transcript("") for _ in recordings]

    def open_stream(self) -> Stream:
        raise TypeError("the empty engine has no streams")

    def warm_up(self, lengths_s: Iterable[float]) -> None:  # noqa: ARG002
        return None

    def evidence(self) -> Evidence:
        return {}


def empty_engine() -> Engine:
    engine: Engine = load("batching", "alone")(EmptyInference(), {})
    return engine


@dataclass(frozen=True)
class Overhead:
    """Seconds per request, float64 ``[requests]`` each."""

    on_the_clock_s: np.ndarray
    between_requests_s: np.ndarray


def measure(requests: int, folder: Path) -> Overhead:
    """Drive ``requests`` empty requests and journal them in ``folder``."""
    service = load("topology", "inprocess")(
        ServiceSpec(EmptyFrontend, empty_engine, make_recorder=partial(make_recorder, "none"))
    )
    service.start()
    item = AudioItem("empty", folder / "empty.wav", 1.0, None, "wav", 16_000, 1, "00-01s")
    record = ProcessRecord(0, os.getpid(), datetime.now(UTC).isoformat(), now_ns())
    on_the_clock, ends = [], []
    with Journal(folder, record) as journal:

        def on_completed(done: Completed) -> None:
            journal.append(to_sample(done, item, record, MEASURED))
            on_the_clock.append((done.reply.finished_ns - done.scheduled_ns) * 1e-9)
            ends.append(now_ns() * 1e-9)

        closed_loop(service, lambda index: Request(str(index), b""), [range(requests)], on_completed)
    service.close()
    inside = np.array(on_the_clock)
    return Overhead(inside, np.diff(np.array(ends)) - inside[1:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.measure.overhead", description=__doc__)
    parser.add_argument("--requests", type=positive_integer, default=20_000)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        overhead = measure(requests, Path(folder))
    print(f"the harness's own cost per request, {requests} requests, in microseconds")
    for name, seconds in (
        ("on the clock", overhead.on_the_clock_s),
        ("between requests", overhead.between_requests_s),
    ):
        median, p95 = (nearest_rank(seconds * 1e6, q) for q in (0.50, 0.95))
        print(f"  {name:18} median {median:7.1f}   p95 {p95:7.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
