"""Recordings whose timestamps start late, pause or jump are whole; their times stay true."""

from __future__ import annotations

import numpy as np
import pytest

from harness.audio.decode import decode, heard
from harness.audio.limits import Limits
from harness.errors import RequestError
from tests.harness.audio.recordings import RATE, Encoding, click_at, encode, noise, tone

TIMED = [
    Encoding("webm", "libopus", 48000),
    Encoding("matroska", "pcm_s16le", 16000),
    Encoding("mp4", "aac", 48000),
]
OPUS = TIMED[0]


@pytest.mark.parametrize("late_s", [0.06, 5.0])
@pytest.mark.parametrize("encoding", TIMED, ids=str)
def test_a_late_start_lacks_nothing(encoding: Encoding, late_s: float) -> None:
    payload = encode(noise(2.0, encoding.rate), encoding, lambda _: late_s)
    assert decode(payload).duration_s == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("encoding", TIMED, ids=str)
def test_silence_fills_a_pause(encoding: Encoding) -> None:
    sound = click_at(1.5, 2.0, encoding.rate) + click_at(0.5, 2.0, encoding.rate) / 2
    audio = decode(encode(sound, encoding, lambda at_s: 2.0 * (at_s > 1.0)))
    assert audio.duration_s == pytest.approx(4.0, abs=0.03)
    assert int(np.argmax(audio.samples)) / audio.sample_rate == pytest.approx(3.5, abs=0.03)
    pause = audio.samples[round(1.1 * audio.sample_rate) : round(2.9 * audio.sample_rate)]
    assert np.abs(pause).max() < 1e-3


def test_lost_packets_do_not_move_what_follows() -> None:
    audio = decode(encode(click_at(1.9, 2.0, 48000), OPUS, lambda at_s: 0.04 * int(at_s / 0.2)))
    assert int(np.argmax(audio.samples)) / 48000 == pytest.approx(1.9 + 9 * 0.04, abs=0.03)


def test_timestamps_that_tremble_are_no_pauses() -> None:
    payload = encode(noise(2.0, 48000), OPUS, lambda at_s: 0.01 * (int(at_s / 0.02) % 2))
    assert decode(payload).duration_s == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("encoding", TIMED, ids=str)
def test_a_pause_does_not_hide_a_truncation(encoding: Encoding, keep: float) -> None:
    payload = encode(noise(4.0, encoding.rate), encoding, lambda at_s: 2.0 * (at_s > 1.0))
    with pytest.raises(RequestError, match=r"truncated|not a readable"):
        decode(payload[: int(len(payload) * keep)])


def test_a_film_s_truncation_is_known_by_its_bytes() -> None:
    payload = encode(noise(2.0, 48000), Encoding("matroska", "libopus", 48000), film=True)
    assert decode(payload).duration_s == pytest.approx(2.0, abs=0.03)
    with pytest.raises(RequestError, match="its segment lacks"):
        decode(payload[: len(payload) // 2])


def test_a_pause_longer_than_the_limit_is_refused_before_it_is_filled() -> None:
    payload = encode(tone(1.0, 48000), OPUS, lambda at_s: 9000.0 * (at_s > 0.5))
    with pytest.raises(RequestError, match=r"frontend\.max_audio_s=7200"):
        decode(payload)


def id3() -> bytes:
    return b"ID3\x03\0\0" + bytes([0, 0, 0x20, 0]) + b"APIC" + noise(0.0639, RATE).tobytes()[:4092]


def ape() -> bytes:
    item = (8).to_bytes(4, "little") + bytes(4) + b"Title\0" + b"A title."
    sizes = b"".join(number.to_bytes(4, "little") for number in (2000, len(item) + 32, 1))
    header, footer = (
        b"APETAGEX" + sizes + flags.to_bytes(4, "little") + bytes(8) for flags in (0xA0000000, 0x80000000)
    )
    return header + item + footer


@pytest.mark.parametrize(
    "tag", [b"", id3(), b"TAG" + bytes(125), ape()], ids=["none", "id3v2", "id3v1", "ape"]
)
def test_tags_between_joined_mp3s_are_no_damage(tag: bytes) -> None:
    one = encode(tone(1.0, 44100), Encoding("mp3", "libmp3lame", 44100))
    assert decode(one + tag + one).duration_s == pytest.approx(2.06, abs=0.03)


def test_a_hole_in_an_mp3_is_refused() -> None:
    payload = bytearray(encode(noise(2.0, 44100), Encoding("mp3", "libmp3lame", 44100)))
    payload[8000:10000] = bytes(2000)
    with pytest.raises(RequestError, match="damaged after"):
        decode(bytes(payload))


@pytest.mark.parametrize("film", [False, True])
def test_length_is_that_of_the_sound(film: bool) -> None:
    """A live recording states none; beside pictures, the container's is theirs."""
    live = Encoding("matroska", "libopus", 48000, muxing={"live": "1"})
    payload = encode(noise(1.5, 48000), live, film=film)
    assert heard(payload, Limits()).length_s == pytest.approx(1.5, abs=0.03)
