"""Decoding: every container at its own rate and channels, aligned in time; damage is named, not heard."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.audio.decode import decode
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.errors import RequestError
from tests.harness.audio.recordings import RATE, VORBIS, Encoding, click_at, encode, noise, tone, wav

LOSSLESS = [
    Encoding("wav", "pcm_u8", 8000),
    Encoding("wav", "pcm_s16le", 16000),
    Encoding("wav", "pcm_s24le", 44100, "stereo"),
    Encoding("wav", "pcm_s32le", 96000),
    Encoding("wav", "pcm_f32le", 48000, "stereo"),
    Encoding("wav", "pcm_f64le", 22050),
    Encoding("flac", "flac", 16000),
    Encoding("flac", "flac", 44100, "stereo", sample_format="s32"),
]
LOSSY = [
    Encoding("mp3", "libmp3lame", 16000),
    Encoding("mp3", "libmp3lame", 44100, "stereo"),
    Encoding("ipod", "aac", 16000),
    Encoding("mp4", "aac", 44100, "stereo"),
    Encoding("webm", "libopus", 48000),
    Encoding("webm", "libopus", 48000, "stereo"),
    Encoding("ogg", "libopus", 48000),
    VORBIS,
]
KNOWS_ITS_LENGTH = [e for e in (*LOSSLESS, *LOSSY) if e.rate != 96000]


def read(payload: bytes, mix: str = "mean", **limits: Any) -> tuple[np.ndarray, int]:
    audio = decode(payload, Limits(**limits), Target(mix))
    return audio.samples, audio.sample_rate


@pytest.mark.parametrize("encoding", LOSSLESS, ids=str)
def test_lossless_containers_return_what_was_recorded(encoding: Encoding) -> None:
    left, right = tone(1.3217, encoding.rate), noise(1.3217, encoding.rate)
    stereo = encoding.layout == "stereo"
    payload = encode(np.stack([left, right]) if stereo else left, encoding)
    quantum = 2.0**-7 if "u8" in encoding.codec else 2.0**-15
    for mix, sound in {"left": left, "right": right if stereo else left}.items():
        samples, rate = read(payload, mix)
        assert rate == encoding.rate
        assert samples.dtype == np.float32
        np.testing.assert_allclose(samples, sound, atol=quantum)


@pytest.mark.parametrize("encoding", LOSSY, ids=str)
def test_lossy_containers_keep_time_and_length(encoding: Encoding) -> None:
    sound = click_at(0.7, 2.3217, encoding.rate)
    samples, rate = read(encode(sound, encoding))
    assert rate == encoding.rate
    assert int(np.argmax(samples)) / rate == pytest.approx(0.7, abs=0.001)
    padding = 1024 if encoding.codec == "aac" else 64  # MP4's last frame is kept whole
    assert 0 <= len(samples) - len(sound) <= padding


def test_a_raw_adts_stream_keeps_the_priming_that_it_does_not_declare() -> None:
    samples, rate = read(encode(click_at(0.7, 2.0, 16000), Encoding("adts", "aac", 16000)))
    assert 0.7 <= int(np.argmax(samples)) / rate <= 0.7 + 2 * 1024 / 16000


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_streamed_without_a_size_is_whole(size: int) -> None:
    payload = bytearray(wav(tone(1.0)))
    struct.pack_into("<I", payload, payload.index(b"data") + 4, size)
    assert read(bytes(payload))[0].shape == (RATE,)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("encoding", KNOWS_ITS_LENGTH, ids=str)
def test_a_truncated_recording_is_refused_where_its_container_tells(encoding: Encoding, keep: float) -> None:
    payload = encode(noise(4.0, encoding.rate), encoding)
    with pytest.raises(RequestError, match=r"truncated|not a readable|no audio track"):
        read(payload[: int(len(payload) * keep)])


def test_a_truncated_download_is_measured_where_the_index_comes_first() -> None:
    index_first = Encoding("ipod", "aac", 44100, muxing={"moov_size": "20000"})
    payload = encode(noise(4.0, 44100), index_first)
    assert read(payload)[0].size >= 4.0 * 44100
    with pytest.raises(RequestError, match=r"truncated or damaged"):
        read(payload[: int(len(payload) * 0.7)])


@pytest.mark.parametrize(
    "live",
    [
        Encoding("webm", "libopus", 48000, muxing={"live": "1"}),
        Encoding("mp4", "aac", 48000, muxing={"movflags": "frag_keyframe+empty_moov"}),
    ],
    ids=str,
)
def test_a_live_capture_that_declares_no_length_is_whole(live: Encoding) -> None:
    samples, rate = read(encode(tone(2.0, live.rate), live))
    assert len(samples) / rate == pytest.approx(2.0, abs=0.05)


def test_an_mp3_without_a_frame_count_just_ends() -> None:
    payload = encode(noise(4.0, 44100), Encoding("mp3", "libmp3lame", 44100))
    for tag in (b"Xing", b"Info"):
        payload = payload.replace(tag, b"\0\0\0\0")
    samples, rate = read(payload[: len(payload) // 2])
    assert 1.5 < len(samples) / rate < 2.5


@pytest.mark.parametrize("damage", [bytes(4000), b"\xff" * 4000])
def test_a_hole_in_the_middle_is_refused(damage: bytes) -> None:
    payload = bytearray(encode(noise(4.0), Encoding("flac", "flac", RATE)))
    middle = len(payload) // 2
    payload[middle : middle + len(damage)] = damage
    with pytest.raises(RequestError, match="truncated or damaged"):
        read(bytes(payload))


def test_a_frame_that_breaks_off_is_located() -> None:
    payload = encode(noise(4.0), Encoding("flac", "flac", RATE))
    with pytest.raises(RequestError, match=r"damaged after 1\.\d\d s"):
        read(payload[: len(payload) // 2])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "empty"),
        (b"hello world, this is no audio " * 50, "not a readable recording"),
        (bytes(4096), "not a readable recording"),
        (np.random.default_rng(0).bytes(100_000), "not a readable recording"),
        (b"RIFF\x24\0\0\0WAVE", "not a readable recording|no audio track"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a readable recording"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "not a readable recording"),
    ],
    ids=["empty", "text", "zeros", "random", "stub", "playlist", "concat"],
)
def test_what_is_no_recording_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(payload)


def test_a_video_without_sound_is_refused() -> None:
    with pytest.raises(RequestError, match="no audio track"):
        read(silent_film())


def silent_film() -> bytes:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    return buffer.getvalue()


LAYOUTS = {7: "6.1", 8: "7.1", 16: "hexadecagonal"}


@pytest.mark.parametrize("channels", [7, 8, 9, 16, 33, 64])
@pytest.mark.parametrize(
    "encoding",
    [
        Encoding("matroska", "libopus", 48000, options={"mapping_family": "255"}),
        Encoding("matroska", "wavpack", 48000),
        Encoding("caf", "pcm_f32be", 16000),
        Encoding("wav", "pcm_s16le", 16000),
    ],
    ids=str,
)
def test_every_layout_up_to_64_channels_is_read(encoding: Encoding, channels: int) -> None:
    """The second channel alone sounds; planes beyond the eighth lie where no decoder's frame points."""
    layout = LAYOUTS.get(channels, f"{channels} channels")
    sound = np.zeros((channels, encoding.rate // 2), np.float32)
    sound[1] = tone(0.5, encoding.rate)
    samples, rate = read(encode(sound, replace(encoding, layout=layout)), mix="right")
    spectrum = np.abs(np.fft.rfft(samples[: rate // 2] * np.hanning(rate // 2)))
    assert np.argmax(spectrum) * 2 == pytest.approx(440.0, abs=4.0)
    assert spectrum.max() > 0.1 * rate / 2 * 0.5


@pytest.mark.parametrize("codec", ["7.1 AAC", "7.1 Opus"])
def test_ordinary_recordings_of_eight_channels_are_read(codec: str) -> None:
    aac = Encoding("ipod", "aac", 48000, "7.1")
    payload = encode(tone(1.0, 48000), aac if "AAC" in codec else Encoding("ogg", "libopus", 48000, "7.1"))
    samples, _ = read(payload)
    np.testing.assert_allclose(np.abs(samples[4800:43200]).max(), 0.5, atol=0.1)


@pytest.mark.parametrize("encoding", [LOSSY[2], LOSSY[4]], ids=str)
def test_a_track_of_unknown_codec_is_refused(encoding: Encoding) -> None:
    payload = encode(tone(1.0, encoding.rate), encoding)
    for known in (b"mp4a", b"esds", b"A_OPUS"):
        payload = payload.replace(known, known[:-1] + b"?")
    with pytest.raises(RequestError, match="codec is unknown: re-encode"):
        read(payload)


def test_a_header_without_samples_is_refused() -> None:
    header = wav(tone(0.1))
    with pytest.raises(RequestError, match=r"no samples|not a readable"):
        read(header[: header.index(b"data")] + b"data\0\0\0\0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_a_number_is_located(value: float) -> None:
    sound = tone(1.0)
    sound[4000] = value
    with pytest.raises(RequestError, match=r"NaN or infinity at 0\.250 s"):
        read(encode(sound, Encoding("wav", "pcm_f32le", RATE)))


def test_a_recording_above_the_limit_is_refused_with_the_key_to_raise() -> None:
    with pytest.raises(RequestError, match=r"frontend\.max_audio_s=2"):
        read(wav(tone(3.0)), max_audio_s=2.0)


def test_the_limit_holds_where_the_length_is_not_declared() -> None:
    adts = encode(tone(3.0), Encoding("adts", "aac", RATE))
    with pytest.raises(RequestError, match=r"frontend\.max_audio_s=2"):
        read(adts, max_audio_s=2.0)


def test_an_hour_passes() -> None:
    payload = wav(np.tile(tone(1.0, 8000), 3600), 8000)
    samples, rate = read(payload)
    assert samples.shape == (3600 * rate,)


def test_tags_at_the_end_do_no_harm() -> None:
    payload = encode(tone(1.0), Encoding("mp3", "libmp3lame", RATE))
    assert read(payload + b"TAG" + bytes(125))[0].shape == (RATE,)


def test_metadata_in_another_alphabet_does_no_harm() -> None:
    payload = encode(tone(1.0), Encoding("mp3", "libmp3lame", RATE))
    title = b"\0" + b"caf\xe9\xff\xfe"
    frame = b"TIT2" + struct.pack(">I", len(title)) + b"\0\0" + title
    tag = b"ID3\x03\0\0" + bytes([0, 0, 0, len(frame)]) + frame
    assert read(tag + payload[payload.index(b"\xff", 10) :])[0].size > 0.9 * RATE
