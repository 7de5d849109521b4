"""Either side may die at any point: no torn read, no stuck slot, nothing left behind.

Every message carries the checksum of its payload. Moments of death are drawn from a seed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import time
import zlib
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests import shared_memory
from tests.variants.ipc import children
from variants import registry
from variants.ipc.types import PeerGoneError, Receiver, Sender, Transport

LARGEST = 400_000
Spawn = Callable[..., BaseProcess]
Address = Callable[[str], str]


@pytest.fixture(params=["uds_copy", "shared_memory"])
def link(request: pytest.FixtureRequest) -> Transport:
    options: dict[str, float] = {"capacity_mb": 4, "slot_kb": 16} if request.param == "shared_memory" else {}
    options["connect_timeout_s"] = 0.05  # a sender that finds nobody says so soon
    return registry.transport({"name": request.param, "options": options})


@pytest.fixture(params=[30, pytest.param(150, marks=pytest.mark.slow)])
def deaths(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def open_files_and_mappings() -> tuple[int, int]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/maps").read_text().count(
        "memfd:ssb-slots"
    )


def kill(child: BaseProcess) -> None:
    child.kill()
    child.join()
    child.close()


def read_whole_messages(receiver: Receiver, until: float) -> int:
    """Messages read before the clock says ``until``, each with the checksum it was sent with."""
    whole = 0
    while time.monotonic() < until:
        lease = receiver.receive(0.001)
        if lease is not None:
            _, checksum, payload = lease.value
            assert zlib.crc32(payload) == checksum
            del payload
            lease.release()
            whole += 1
    return whole


def read_until_broken(receiver: Receiver, links: int) -> int:
    """Messages read before ``links`` links were seen to be broken: what a dead writer left, and its end."""
    whole, deadline = 0, time.monotonic() + 10.0
    while receiver.traffic.broken_links < links:
        assert time.monotonic() < deadline, f"a death went unnoticed: {receiver.traffic}"
        whole += read_whole_messages(receiver, time.monotonic() + 0.002)
    return whole


def send_when_up(sender: Sender, number: int) -> None:
    while True:
        try:
            sender.send(children.message(sender, number, LARGEST, in_place=True))
            return
        except PeerGoneError:
            continue


def test_the_writer_dies(link: Transport, address: Address, spawn: Spawn, deaths: int) -> None:
    receiver, moments = link.receiver(address("a")), random.Random(1)
    kill(spawn(children.send_for_ever, link, address("a"), LARGEST, 0))
    read_whole_messages(receiver, time.monotonic() + 0.05)
    before, names, whole = open_files_and_mappings(), shared_memory.names(), 0
    earlier = receiver.traffic.broken_links
    for seed in range(deaths):
        child = spawn(children.send_for_ever, link, address("a"), LARGEST, seed)
        while (lease := receiver.receive(1)) is None:
            pass
        lease.release()
        del lease
        whole += read_whole_messages(receiver, time.monotonic() + moments.uniform(0, 0.01))
        kill(child)
        whole += read_until_broken(receiver, earlier + seed + 1)
    assert whole > deaths  # it was under load
    assert receiver.traffic.broken_links == earlier + deaths
    read_whole_messages(receiver, time.monotonic() + 0.05)
    assert open_files_and_mappings() == before
    assert not shared_memory.left_since(names)
    receiver.close()


def test_the_reader_dies(link: Transport, address: Address, spawn: Spawn, deaths: int) -> None:
    sender, moments = link.sender(address("a")), random.Random(2)
    report, reported = multiprocessing.Pipe(duplex=False)
    sent = deaths_seen = 0
    for _ in range(deaths):
        child = spawn(children.receive_for_ever, link, address("a"), reported)
        send_when_up(sender, sent)
        until = time.monotonic() + moments.uniform(0, 0.01)
        killed = False
        while True:  # a stuck slot would make this wait for ever
            if not killed and time.monotonic() >= until:
                kill(child)
                killed = True
            try:
                sender.send(children.message(sender, sent, 300_000, in_place=sent % 2 == 0))
                sent += 1
            except PeerGoneError:
                deaths_seen += 1
                break
    assert deaths_seen == deaths and sent > deaths
    os.set_blocking(report.fileno(), False)
    assert set(os.read(report.fileno(), 1 << 20)) == {ord(".")}  # whole messages, and none torn
    sender.close()
    assert open_files_and_mappings()[1] == 0


def test_the_one_in_the_middle_dies(address: Address, spawn: Spawn, deaths: int) -> None:
    """Its reader keeps what was forwarded, although its writer has begun again with fresh memory."""
    link = registry.transport({"name": "shared_memory", "options": {"capacity_mb": 4, "slot_kb": 16}})
    end, moments, whole = link.receiver(address("end")), random.Random(3), 0
    spawn(children.send_again_and_again, link, address("middle"), LARGEST)
    for _ in range(deaths):
        child = spawn(children.forward_for_ever, link, address("middle"), address("end"))
        while (lease := end.receive(1)) is None:
            pass
        _, checksum, payload = lease.value
        whole += read_whole_messages(end, time.monotonic() + moments.uniform(0, 0.01))
        kill(child)
        whole += read_whole_messages(end, time.monotonic() + 0.002)
        assert zlib.crc32(payload) == checksum  # held through the death
        del payload
        lease.release()
    assert whole > deaths
    del lease
    read_whole_messages(end, time.monotonic() + 0.05)
    assert open_files_and_mappings()[1] == 0
    end.close()
