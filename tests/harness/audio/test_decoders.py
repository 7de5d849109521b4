"""Who decodes what: the fastest library for what the bytes are, the same samples, and no damage less."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile

from harness.audio import ffmpeg
from harness.audio.limits import Limits
from harness.audio.mono import Heard, MonoWriter
from harness.audio.reading import read
from harness.audio.sndfile import promised
from harness.audio.target import Target
from harness.errors import RequestError
from tests.harness.audio.mutations import mutated_from
from tests.harness.audio.recordings import RATE, VORBIS, Encoding, encode, noise, tone, wav

FLAC = Encoding("flac", "flac", RATE)
MP3 = Encoding("mp3", "libmp3lame", RATE)
LENGTHS_S = (0.01, 0.1, 1.03, 2.3217)  # within a block of 16,384 samples, and beyond


class Kept:
    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def write(self, block: np.ndarray) -> None:
        self.parts.append(block.copy())

    def restart(self) -> None:
        self.parts.clear()

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate(self.parts)


def by_choice(payload: bytes, mix: str = "mean") -> tuple[np.ndarray, Heard]:
    kept = Kept()
    heard = read(payload, Limits(), Target(mix), kept)
    return kept.samples, heard


def by_pyav(payload: bytes, mix: str = "mean") -> np.ndarray:
    kept = Kept()
    ffmpeg.read(payload, Limits(), partial(MonoWriter, Limits(), Target(mix), kept.write, 0))
    return kept.samples


def vorbis(samples: np.ndarray, rate: int) -> bytes:
    """``[n]`` or ``[channels, n]`` by libvorbis."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


@pytest.mark.parametrize("seconds", LENGTHS_S)
@pytest.mark.parametrize(
    "encoding",
    [
        FLAC,
        Encoding("flac", "flac", 44100, "stereo"),
        Encoding("flac", "flac", 48000, "stereo", sample_format="s32"),
        Encoding("flac", "flac", 22050, "5.1"),
    ],
    ids=str,
)
def test_flac_is_bit_for_bit_what_pyav_reads(encoding: Encoding, seconds: float) -> None:
    rows = {"mono": 1, "stereo": 2, "5.1": 6}[encoding.layout]
    sound = np.stack([noise(seconds, encoding.rate, seed=row) for row in range(rows)])
    payload = encode(sound, encoding)
    for mix in ("mean", "right"):
        samples, heard = by_choice(payload, mix)
        assert (heard.decoder, heard.declined) == ("soundfile", "")
        np.testing.assert_array_equal(samples, by_pyav(payload, mix))


@pytest.mark.parametrize("seconds", LENGTHS_S)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_mp3_has_the_same_length_delay_and_samples(layout: str, rate: int, seconds: float) -> None:
    sound = np.stack([noise(seconds, rate), tone(seconds, rate)])
    payload = encode(sound if layout == "stereo" else sound[0], replace(MP3, rate=rate, layout=layout))
    samples, heard = by_choice(payload)
    assert heard.decoder == "soundfile"
    assert len(samples) == round(seconds * rate)
    np.testing.assert_allclose(samples, by_pyav(payload), atol=4e-6)


@pytest.mark.parametrize(
    "muxing",
    [{"write_xing": "0"}, {"id3v2_version": "0"}, {"write_id3v1": "1"}],
    ids=lambda muxing: str(muxing),
)
def test_mp3s_with_and_without_tags_and_counts_are_the_same(muxing: dict[str, str]) -> None:
    payload = encode(noise(2.3), replace(MP3, muxing=muxing))
    samples, heard = by_choice(payload)
    assert heard.decoder == "soundfile"
    np.testing.assert_allclose(samples, by_pyav(payload), atol=4e-6)


@pytest.mark.parametrize("seconds", [2.3217, 5.0])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_vorbis_has_the_same_length_and_samples(channels: int, rate: int, seconds: float) -> None:
    sound = np.stack([noise(seconds, rate, seed=row) for row in range(channels)])
    payload = vorbis(sound, rate)
    samples, heard = by_choice(payload)
    assert heard.decoder == "soundfile"
    assert len(samples) == sound.shape[1]
    np.testing.assert_allclose(samples, by_pyav(payload), atol=2e-6)


@pytest.mark.parametrize("seconds", [0.1, 0.5])
def test_a_vorbis_of_one_page_is_as_long_as_its_sound(seconds: float) -> None:
    """FFmpeg cannot tell where such a one begins, and is off by some hundred samples."""
    assert len(by_choice(vorbis(noise(seconds), RATE))[0]) == round(seconds * RATE)


@pytest.mark.parametrize(
    ("payload", "decoder"),
    [
        (wav(tone(1.0)), "wav"),
        (encode(tone(1.0), Encoding("wav", "adpcm_ima_wav", RATE)), "pyav"),
        (encode(tone(1.0, 48000), Encoding("ogg", "libopus", 48000)), "pyav"),
        (encode(tone(1.0, 48000), Encoding("webm", "libopus", 48000)), "pyav"),
        (encode(tone(1.0), Encoding("ipod", "aac", RATE)), "pyav"),
        (encode(tone(1.0), Encoding("adts", "aac", RATE)), "pyav"),
        (encode(tone(1.0), Encoding("caf", "pcm_s16be", RATE)), "pyav"),
        (vorbis(np.stack([tone(1.0)] * 3), RATE), "pyav"),
    ],
)
def test_formats_that_are_no_other_s_go_to_pyav_without_a_word(payload: bytes, decoder: str) -> None:
    _, heard = by_choice(payload)
    assert (heard.decoder, heard.declined) == (decoder, "")


def of_unknown_length(payload: bytes) -> bytes:
    """A FLAC as a live encoder writes it: the length's 36 bits are zero."""
    return payload[:21] + bytes([payload[21] & 0xF0]) + bytes(4) + payload[26:]


def one_page_later(payload: bytes) -> bytes:
    """Without its fourth page, the second with sound."""
    pages = payload.split(b"OggS")
    return b"OggS".join([*pages[:4], *pages[5:]])


ONE_FLAC, ONE_MP3 = encode(noise(1.0), FLAC), encode(noise(1.0), MP3)
LONG_VORBIS = encode(noise(4.0, 44100), VORBIS)


@pytest.mark.parametrize(
    ("payload", "reason", "seconds"),
    [
        (of_unknown_length(ONE_FLAC), "flac: its header states no length", 1.0),
        (ONE_FLAC + ONE_FLAC, "flac: several recordings in one", 2.0),
        (ONE_MP3 + ONE_MP3, "mp3: something else between its frames", 2.1),
        (ONE_MP3 + b"TAG" + bytes(125) + ONE_MP3, "mp3: something else between its frames", 2.1),
        (
            ONE_MP3.replace(b"Lavf\0\0\0\0\0", b"None\0\0\0\0\0"),
            "mp3: its encoder does not state its delay",
            1.07,
        ),
        (one_page_later(LONG_VORBIS), "ogg: pages are missing", 4.0),
        (vorbis(noise(3.0), RATE) + vorbis(noise(2.0), RATE), "ogg: several streams", 5.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_unusual_is_known_before_it_is_decoded_and_left_to_pyav(
    payload: bytes, reason: str, seconds: float
) -> None:
    samples, heard = by_choice(payload)
    assert (heard.decoder, heard.declined) == ("pyav", reason)
    assert heard.length_s == pytest.approx(seconds, abs=0.05)
    np.testing.assert_array_equal(samples, by_pyav(payload))


@pytest.mark.parametrize("late_s", [lambda _: 5.0, lambda at_s: 2.0 * (at_s > 1.0)], ids=["late", "pause"])
def test_a_vorbis_with_a_time_of_its_own_is_left_to_pyav(late_s: Callable[[float], float]) -> None:
    """Its pages count the samples of the pause, which are not there."""
    payload = encode(noise(3.0, 44100), VORBIS, late_s)
    samples, heard = by_choice(payload)
    assert (heard.decoder, heard.declined) == ("pyav", "libsndfile: not as many samples as promised")
    np.testing.assert_array_equal(samples, by_pyav(payload))


def test_what_libsndfile_finds_wanting_begins_anew_with_pyav() -> None:
    """A flipped bit in a frame: libFLAC's checksum fails after blocks were written; FFmpeg decodes it."""
    payload = bytearray(encode(noise(4.0), FLAC))
    payload[-3000] ^= 1
    samples, heard = by_choice(bytes(payload))
    assert heard.decoder == "pyav"
    assert heard.declined.startswith("libsndfile: ")
    np.testing.assert_array_equal(samples, by_pyav(bytes(payload)))


def test_looking_at_hours_of_frames_takes_little_memory() -> None:
    start = encode(noise(1.0), replace(MP3, muxing={"write_xing": "0", "id3v2_version": "0"}))
    tracemalloc.start()
    promise = promised(start * 2000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert promise is not None
    assert promise.samples > 2000 * RATE
    assert peak_bytes < len(start) * 2000 + 4 * 2**20


SHORT_FLAC = b"fLaC\x80\0\0\x22" + bytes(34)
SHORT_VORBIS = b"OggS\0\2" + bytes(20) + b"\1\7\1vorbis"


@pytest.mark.parametrize("whole", [ONE_FLAC, SHORT_FLAC, ONE_MP3, LONG_VORBIS, SHORT_VORBIS])
def test_a_recording_that_breaks_off_in_its_header_is_the_sender_s_error(whole: bytes) -> None:
    for length in range(1, min(len(whole), 300) + 1):
        with pytest.raises(RequestError):
            by_choice(whole[:length])


def outcome(decode: Callable[[], np.ndarray]) -> str:
    try:
        return f"{len(decode())} samples"
    except RequestError as error:
        return str(error)


@pytest.mark.parametrize(
    "whole", [ONE_FLAC, ONE_MP3, vorbis(noise(3.0), RATE)], ids=["flac", "mp3", "vorbis"]
)
def test_damage_is_found_as_pyav_finds_it(whole: bytes) -> None:
    """Where libsndfile hears anything in a damaged recording, FFmpeg hears as much; errors are its own."""
    for payload in mutated_from([whole], 250, seed=7):
        assert outcome(lambda: by_choice(payload)[0]) == outcome(lambda: by_pyav(payload))  # noqa: B023
