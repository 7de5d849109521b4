"""Handing decoded audio to another process: milliseconds and bytes copied, per transport and length.

    python -m benchmarks.ipc --out results/reference/MACHINE/ipc.json

A producer writes float32 samples at 16 kHz into memory that it got from the link, as a decoder does
with its output, and sends them; a consumer in a process of its own takes them and reads every one.
Transports take turns (ABBA) in every round; each round of processes starts afresh. Two times are kept:

- ``handover``: from the beginning of ``send`` (serialization included) to the message whole at the
  receiver: what a request's ``ipc`` span holds;
- ``whole``: from the beginning of writing to the end of reading, so that a cost which a transport
  shifts into the first touch of memory is not lost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from harness.arguments import positive_integer, positive_seconds, result_file
from harness.command import command
from harness.measure.stats import percentiles
from harness.run.provenance import git_state
from harness.spans import now_ns
from variants import registry
from variants.ipc.serialize import address_of
from variants.ipc.shared_memory import SharedLease
from variants.ipc.types import Lease, Sender, Transport

SCHEMA = 1
TRANSPORTS = ("zeromq", "uds_copy", "shared_memory")
LENGTHS_S = (1.0, 30.0, 600.0, 3600.0)
SAMPLE_RATE = 16_000
WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """One message. ``copied_bytes`` counts both sides; ``in_segment``: it was read where it was written."""

    transport: str
    audio_s: float
    process: int
    handover_s: float
    whole_s: float
    copied_bytes: int
    in_segment: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the consumer found, on the span clock."""

    sent_ns: int
    received_ns: int
    read_ns: int
    total: float
    copied_bytes: int
    in_segment: bool


# ---------------------------------------------------------------- the two processes


def consume(transport: Transport, address: str, answers: Connection) -> None:
    """Reads every sample of every message, for ever."""
    receiver = transport.receiver(address)
    answers.send(None)
    copied_before = 0
    while True:
        lease = receiver.receive()
        if lease is None:
            continue
        total = float(lease.value.sum(dtype=np.float64))
        read_ns, in_segment = now_ns(), _in_segment(lease)
        times = (lease.times.sent_ns, lease.times.received_ns)
        lease.release()
        copied = receiver.traffic.copied_bytes.total()
        answers.send(Receipt(*times, read_ns, total, copied - copied_before, in_segment))
        copied_before = copied


def _in_segment(lease: Lease) -> bool:
    if not isinstance(lease, SharedLease):
        return False
    return lease.parts[0].segment.contains(address_of(lease.value), lease.value.nbytes)


class Pair:
    """A transport's producer here and its consumer in a child process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        transport = registry.transport({"name": name})
        self._answers, theirs = multiprocessing.Pipe(duplex=False)
        address = str(folder / name)
        context = multiprocessing.get_context("spawn")
        self._child = context.Process(target=consume, args=(transport, address, theirs), daemon=True)
        self._child.start()
        self._answers.recv()  # it listens
        self._sender: Sender = transport.sender(address)

    def pass_on(self, source: np.ndarray) -> tuple[Receipt, int, int]:
        """(receipt, when writing began, bytes copied on both sides)."""
        copied_before = self._sender.traffic.copied_bytes.total()
        began_ns = now_ns()
        audio = self._sender.allocate(source.shape, source.dtype)
        np.copyto(audio, source)  # the decoder's writing of its output
        self._sender.send(audio)
        receipt: Receipt = self._answers.recv()
        if receipt.total != float(source.sum(dtype=np.float64)):
            raise RuntimeError(f"ipc={self.name}: the samples that arrived are not those that were sent")
        copied = self._sender.traffic.copied_bytes.total() - copied_before
        return receipt, began_ns, copied + receipt.copied_bytes

    def close(self) -> None:
        self._child.kill()
        self._child.join()
        self._sender.close()


# ---------------------------------------------------------------- the measurement


def measure(lengths_s: Sequence[float], processes: int, rounds: int) -> Iterator[Sample]:
    """Samples of every transport and length; each of ``processes`` starts new consumers."""
    rng = np.random.default_rng(7)
    for process in range(processes):
        folder = Path(tempfile.mkdtemp(prefix="ssb-bench-"))
        pairs = [Pair(name, folder) for name in TRANSPORTS]
        try:
            for length_s in lengths_s:
                source = rng.normal(0, 0.1, round(length_s * SAMPLE_RATE)).astype(np.float32)
                yield from _take_turns(pairs, source, length_s, process, rounds)
        finally:
            for pair in pairs:
                pair.close()
            shutil.rmtree(folder, ignore_errors=True)


def _take_turns(
    pairs: Sequence[Pair], source: np.ndarray, length_s: float, process: int, rounds: int
) -> Iterator[Sample]:
    for number in range(-WARM_UPS, rounds):
        for pair in pairs if number % 2 == 0 else reversed(pairs):
            receipt, began_ns, copied = pair.pass_on(source)
            if number >= 0:
                yield Sample(
                    transport=pair.name,
                    audio_s=length_s,
                    process=process,
                    handover_s=(receipt.received_ns - receipt.sent_ns) * 1e-9,
                    whole_s=(receipt.read_ns - began_ns) * 1e-9,
                    copied_bytes=copied,
                    in_segment=receipt.in_segment,
                )


def summarize(samples: Sequence[Sample], lengths_s: Sequence[float]) -> list[dict[str, Any]]:
    """A row per transport and length: p50 and p95 with 95 % intervals, bytes copied a request."""
    rows = []
    for length_s in lengths_s:
        for transport in TRANSPORTS:
            of = [s for s in samples if s.transport == transport and s.audio_s == length_s]
            process = [s.process for s in of]
            rows.append(
                {
                    "transport": transport,
                    "audio_s": length_s,
                    "payload_bytes": round(length_s * SAMPLE_RATE) * 4,
                    "copied_bytes": max(s.copied_bytes for s in of),
                    "read_in_place": all(s.in_segment for s in of),
                    "handover": _estimates([s.handover_s for s in of], process),
                    "whole": _estimates([s.whole_s for s in of], process),
                }
            )
    return rows


def _estimates(values_s: Sequence[float], process: Sequence[int]) -> dict[str, Any]:
    p50, p95 = percentiles(values_s, process, (0.5, 0.95))
    return {"p50_s": asdict(p50), "p95_s": asdict(p95)}


def provenance() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "command": ["python", "-m", "benchmarks.ipc", *sys.argv[1:]],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average_at_start": os.getloadavg()[0],
        "git": asdict(git_state()),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# ---------------------------------------------------------------- printing


def show(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    heads = "".join(f"{head:>34}" for head in ("handover p50 ms", "handover p95 ms", "whole p50 ms"))
    yield f"{'audio':>7}  {'transport':<14}{heads}{'bytes copied':>16}"
    for row in rows:
        figures = (row["handover"]["p50_s"], row["handover"]["p95_s"], row["whole"]["p50_s"])
        columns = "".join(f"{_ms(figure):>34}" for figure in figures)
        yield f"{row['audio_s']:>6g}s  {row['transport']:<14}{columns}{row['copied_bytes']:>16,}"


def _ms(figure: dict[str, Any]) -> str:
    if "needed" in figure:
        return f"n={figure['n']} too small"
    return f"{figure['value'] * 1e3:.3f} [{figure['low'] * 1e3:.3f}, {figure['high'] * 1e3:.3f}]"


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    return {name: [getattr(sample, name) for sample in samples] for name in Sample.__slots__}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ipc", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=result_file, help="JSON file to write")
    parser.add_argument("--processes", type=positive_integer, default=5, help="fresh sets of processes")
    parser.add_argument(
        "--rounds", type=positive_integer, default=12, help="messages of each transport and length in a set"
    )
    parser.add_argument(
        "--lengths", type=positive_seconds, nargs="+", default=LENGTHS_S, help="seconds of audio"
    )
    options = parser.parse_args(arguments)
    origin = provenance()
    samples = list(measure(options.lengths, options.processes, options.rounds))
    rows = summarize(samples, options.lengths)
    print("\n".join(show(rows)))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "provenance": origin, "rows": rows, "samples": _columns(samples)}
        options.out.write_text(json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
