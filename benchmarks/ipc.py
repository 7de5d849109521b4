"""Handing decoded audio to another process, per transport and length.

    python -m benchmarks.ipc --json ipc.json

A producer writes float32 samples at 16 kHz into memory that it got from the link, as a decoder does
with its output, and sends them; a consumer in a process of its own takes them and reads every one. Each
set of processes starts afresh. Two times are kept:

- ``handover_s``: from the beginning of ``send`` (serialization included) to the message whole at the
  receiver: what a request's ``ipc`` span holds;
- ``whole_s``: from the beginning of writing to the end of reading, so that a cost which a transport
  shifts into the first touch of memory is not lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import core
from harness.arguments import positive_integer, positive_seconds
from harness.command import command
from harness.errors import InvalidMeasurementError
from harness.protocols import Evidence
from harness.spans import now_ns
from variants import registry
from variants.ipc.serialize import address_of
from variants.ipc.shared_memory import SharedLease
from variants.ipc.types import Lease, Sender, Transport

TRANSPORTS = ("zeromq", "uds_copy", "shared_memory")
LENGTHS_S = (1.0, 30.0, 600.0, 3600.0)
SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the consumer found, on the span clock; ``in_segment``: it read where it was written."""

    sent_ns: int
    received_ns: int
    read_ns: int
    total: float
    copied_bytes: int
    in_segment: bool


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

    def pass_on(self, source: np.ndarray) -> tuple[Receipt, core.Sample]:
        """Raises ``InvalidMeasurementError`` where other samples arrive than were sent."""
        copied_before = self._sender.traffic.copied_bytes.total()
        began_ns = now_ns()
        audio = self._sender.allocate(source.shape, source.dtype)
        np.copyto(audio, source)  # the decoder's writing of its output
        self._sender.send(audio)
        receipt: Receipt = self._answers.recv()
        if receipt.total != float(source.sum(dtype=np.float64)):
            raise InvalidMeasurementError(
                f"ipc={self.name}: the samples that arrived are not those that were sent"
            )
        copied = self._sender.traffic.copied_bytes.total() - copied_before
        return receipt, {
            "handover_s": (receipt.received_ns - receipt.sent_ns) * 1e-9,
            "whole_s": (receipt.read_ns - began_ns) * 1e-9,
            "copied_bytes": copied + receipt.copied_bytes,  # on both sides
        }

    def close(self) -> None:
        self._child.kill()
        self._child.join()
        self._sender.close()


@dataclass(frozen=True)
class Handover:
    """``core.Contender``: one transport, audio of one length."""

    pair: Pair
    source: np.ndarray

    def agree(self) -> Mapping[str, Any]:
        receipt, sample = self.pair.pass_on(self.source)
        return {"copied_bytes": sample["copied_bytes"], "read_in_place": receipt.in_segment}

    def run(self) -> core.Sample:
        return self.pair.pass_on(self.source)[1]

    def evidence(self) -> Evidence:
        return {}


def trials(options: argparse.Namespace, _results: core.Results) -> Iterator[core.Trial]:
    """Every length over every transport, in one set of processes after the other."""
    rng = np.random.default_rng(7)
    for process in range(options.processes):
        with _pairs() as pairs:
            for length_s in options.lengths:
                source = rng.normal(0, 0.1, round(length_s * SAMPLE_RATE)).astype(np.float32)
                yield core.Trial(
                    panel="Handing audio to another process",
                    size_name="audio length",
                    size=length_s,
                    unit=" s",
                    contenders={pair.name: Handover(pair, source) for pair in pairs},
                    facts={"payload_bytes": source.nbytes},
                    process=process,
                )


@contextmanager
def _pairs() -> Iterator[list[Pair]]:
    folder = Path(tempfile.mkdtemp(prefix="ssb-bench-"))
    pairs: list[Pair] = []
    try:
        for name in TRANSPORTS:
            pairs.append(Pair(name, folder))
        yield pairs
    finally:
        for pair in pairs:
            pair.close()
        shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ipc", description="Time the transports between processes."
    )
    parser.add_argument("--processes", type=positive_integer, default=5, help="fresh sets of processes")
    parser.add_argument(
        "--lengths", type=positive_seconds, nargs="+", default=LENGTHS_S, help="seconds of audio"
    )
    core.add_options(parser, rounds=12)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.ipc", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
