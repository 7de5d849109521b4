"""What a recording does to its decoder's process costs that recording, and nobody else."""

from __future__ import annotations

import contextlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.audio.decode import decode, heard
from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.errors import RequestError
from tests.harness.audio.killing import decoders_killed
from tests.harness.audio.recordings import RATE, VORBIS, Encoding, encode, noise, tone, wav

CASES = Path(__file__).parent / "cases"
FLAC = Encoding("flac", "flac", RATE)
LONG = encode(np.zeros(1800 * 8000, np.float32), Encoding("flac", "flac", 8000))
TO_16K = Target(sample_rate=RATE)


def decoders() -> list[psutil.Process]:
    """Those alive; one that an earlier test's pool has let go of may still be ending."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "decoder_process" in " ".join(child.cmdline()):
                found.append(child)
    return found


def begun_since(before: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in decoders() if process not in before]


@pytest.mark.parametrize(
    "encoding", [FLAC, Encoding("webm", "libopus", 48000), Encoding("ipod", "aac", 44100), VORBIS], ids=str
)
def test_a_process_of_its_own_gives_the_same_samples(encoding: Encoding) -> None:
    pool = DecoderPool()
    payload = encode(noise(2.0, encoding.rate), encoding)
    here, there = decode(payload, target=TO_16K), decode(payload, target=TO_16K, pool=pool)
    np.testing.assert_array_equal(there.samples, here.samples)
    assert there.resampled_ns > 0 or encoding.rate == RATE


def test_the_same_damage_is_the_same_error() -> None:
    payload = encode(noise(2.0), FLAC)[:-3000]
    with pytest.raises(RequestError) as here:
        decode(payload)
    with pytest.raises(RequestError) as there:
        decode(payload, pool=DecoderPool())
    assert str(here.value) == str(there.value)


def test_a_death_costs_one_recording() -> None:
    pool, before = DecoderPool(), decoders()
    with (
        decoders_killed(lambda: begun_since(before)),
        pytest.raises(RequestError, match=r"the decoder died of this recording \(SIGKILL\): it is damaged"),
    ):
        while True:
            decode(LONG, pool=pool)
    assert decode(encode(tone(1.0), FLAC), pool=pool).duration_s == 1.0


def test_a_decoder_that_died_idle_is_replaced() -> None:
    pool, before = DecoderPool(), decoders()
    payload = encode(tone(1.0), FLAC)
    decode(payload, pool=pool)
    (mine,) = begun_since(before)
    mine.kill()
    psutil.wait_procs([mine])
    assert decode(payload, pool=pool).duration_s == 1.0


def test_decoding_that_takes_too_long_is_ended() -> None:
    pool = DecoderPool()
    with pytest.raises(RequestError, match=r"longer than frontend\.max_decode_s=0\.001"):
        decode(LONG, Limits(max_decode_s=0.001), pool=pool)
    assert decode(encode(tone(1.0), FLAC), pool=pool).duration_s == 1.0


def test_plain_wav_starts_no_process() -> None:
    before = decoders()
    decode(wav(tone(1.0)), pool=DecoderPool())
    assert not begun_since(before)


def test_a_pool_s_processes_end_with_it_and_are_not_pickled() -> None:
    pool, before = DecoderPool(), decoders()
    decode(encode(tone(1.0), FLAC), pool=pool)
    copy = pickle.loads(pickle.dumps(pool))
    assert decode(encode(tone(1.0), FLAC), pool=copy).duration_s == 1.0
    assert len(begun_since(before)) == 2
    del pool, copy
    assert not begun_since(before)


def test_threads_may_share_a_pool() -> None:
    pool = DecoderPool()
    payloads = [encode(tone(1.0, hz=200.0 * n), FLAC) for n in range(1, 9)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda payload: decode(payload, pool=pool).samples, payloads))
    for payload, samples in zip(payloads, together, strict=True):
        np.testing.assert_array_equal(samples, decode(payload).samples)


def test_memory_follows_the_seconds_at_the_target_s_rate() -> None:
    """Half an hour at 8 kHz is 58 MB of samples, none of which the decoder keeps."""
    pool, before = DecoderPool(), decoders()
    decode(LONG, pool=pool)
    (mine,) = begun_since(before)
    assert mine.memory_info().rss < 90 * 2**20


def test_a_length_is_measured_in_a_process_that_may_die() -> None:
    assert heard(encode(tone(1.5), FLAC), Limits()).length_s == 1.5
    assert heard((CASES / "mutated.mp4").read_bytes(), Limits()).length_s == pytest.approx(0.53, abs=0.01)


@pytest.mark.slow
def test_thirty_kilobytes_that_are_five_minutes_of_eight_channels_at_192_khz() -> None:
    pool, before = DecoderPool(), decoders()
    audio = decode((CASES / "flac_bomb.flac").read_bytes(), target=TO_16K, pool=pool)
    assert audio.duration_s == pytest.approx(299.7, abs=0.1)
    (mine,) = begun_since(before)
    assert mine.memory_info().rss < 100 * 2**20
