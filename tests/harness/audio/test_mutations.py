"""Whatever bytes come: samples or a request's error, in bounded time and memory, and no decoder dies."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import psutil
import pytest

from harness.audio.decode import decode
from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.errors import RequestError
from tests.harness.audio.mutations import mutated, with_huge_sizes

MOST_MIB = 400
WATCHDOG_S = 20.0  # of a shared machine's wall clock: the longest takes 1.5 s of one core


def outcomes(payloads: Iterable[bytes]) -> Counter[str]:
    """How the payloads ended; the most memory that this process gained or a decoder took is bounded."""
    pool, limits, ends = DecoderPool(), Limits(max_decode_s=WATCHDOG_S), Counter[str]()
    before_mib = peak_mib(os.getpid())
    for payload in payloads:
        start_s = time.monotonic()
        try:
            decode(payload, limits, Target(sample_rate=16000), pool=pool)
            ends["decoded"] += 1
        except RequestError as error:
            ends[kind(str(error))] += 1
        ends["longest_ms"] = max(ends["longest_ms"], round((time.monotonic() - start_s) * 1e3))
    decoders = [peak_mib(child.pid) for child in psutil.Process().children() if is_decoder(child)]
    ends["most_mib"] = max(peak_mib(os.getpid()) - before_mib, *decoders)
    return ends


def kind(error: str) -> str:
    return "died" if "decoder died" in error else "slow" if "max_decode_s" in error else "refused"


def is_decoder(process: psutil.Process) -> bool:
    return "decoder_process" in " ".join(process.cmdline())


def peak_mib(pid: int) -> int:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(peak[1]) // 1024 if peak else 0


def test_random_damage_is_decoded_or_refused() -> None:
    ends = outcomes(mutated(380, seed=1))
    assert ends["decoded"] > 40
    assert ends["refused"] > 40
    assert (ends["died"], ends["slow"]) == (0, 0)
    assert ends["most_mib"] < MOST_MIB


def test_a_huge_number_in_a_header_claims_nothing() -> None:
    ends = outcomes(islice(with_huge_sizes(), 0, None, 37))
    assert (ends["died"], ends["slow"]) == (0, 0)
    assert ends["most_mib"] < MOST_MIB


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_ten_thousand_mutations(seed: int) -> None:
    ends = outcomes(mutated(5_000, seed))
    print(dict(ends))
    assert (ends["died"], ends["slow"]) == (0, 0)
    assert ends["most_mib"] < MOST_MIB


@pytest.mark.slow
def test_huge_numbers_at_every_offset() -> None:
    ends = outcomes(with_huge_sizes())
    print(dict(ends))
    assert (ends["died"], ends["slow"]) == (0, 0)
    assert ends["most_mib"] < MOST_MIB
