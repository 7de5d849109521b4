"""WAV is read without a library: bit for bit what FFmpeg reads, and no size is believed."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest

from harness.audio import wav as parser
from harness.audio.decode import decode
from harness.audio.target import Target
from harness.errors import RequestError
from tests.harness.audio.recordings import RATE, Encoding, encode, noise, tone, wav

PLAIN = [
    *(Encoding("wav", f"pcm_{kind}", 16000) for kind in ("u8", "s16le", "s24le", "s32le", "alaw", "mulaw")),
    Encoding("wav", "pcm_f32le", 44100, "stereo"),
    Encoding("wav", "pcm_f64le", 48000, "5.1"),
    Encoding("wav", "pcm_s24le", 96000, "stereo"),
    Encoding("wav", "pcm_s16le", 16000, "7.1"),
    Encoding("wav", "pcm_s16le", 16000, muxing={"rf64": "always"}),
]


def by_ffmpeg(payload: bytes) -> np.ndarray:
    """float64 ``[channels, n]``, full scale being 1."""
    with av.open(io.BytesIO(payload)) as container:
        channels = container.streams.audio[0].channels
        values = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    scales = {"u": 2.0**-7, "i": 2.0 ** (1 - 8 * values.itemsize), "f": 1.0}
    scaled = values * scales[values.dtype.kind] - (values.dtype.kind == "u")
    return scaled.reshape(-1, channels).T


@pytest.mark.parametrize("encoding", PLAIN, ids=str)
def test_every_plain_width_is_read_as_ffmpeg_reads_it(encoding: Encoding) -> None:
    payload = encode(noise(0.3217, encoding.rate, peak=0.3), encoding)
    parsed = parser.parse(payload)
    assert parsed is not None
    assert parsed.plain
    channels = by_ffmpeg(payload).astype(np.float32)
    for mix, expected in {"left": channels[0], "mean": channels.mean(axis=0)}.items():
        np.testing.assert_array_equal(decode(payload, target=Target(mix)).samples, expected)


def test_big_endian_64_bit_and_unusual_chunks_are_read() -> None:
    samples = np.round(tone(0.1) * 2.0**62).astype(">i8")
    form = struct.pack(">HHIIHH", 1, 1, RATE, 8 * RATE, 8, 64)
    chunks = b"".join(
        name + struct.pack(">I", len(body)) + body + bytes(len(body) % 2)
        for name, body in ((b"JUNK", b"odd"), (b"fmt ", form), (b"data", samples.tobytes()))
    )
    payload = b"RIFX" + struct.pack(">I", len(chunks) + 4) + b"WAVE" + chunks
    np.testing.assert_allclose(decode(payload).samples, tone(0.1) / 2, atol=1e-7)


def with_size(payload: bytes, chunk: bytes, size: int) -> bytes:
    changed = bytearray(payload)
    struct.pack_into("<I", changed, payload.index(chunk) + 4, size)
    return bytes(changed)


def test_a_data_chunk_may_state_as_much_too_much_as_other_containers() -> None:
    payload = wav(tone(1.0))
    assert decode(with_size(payload, b"data", 2 * RATE + 22)).samples.shape == (RATE,)
    with pytest.raises(RequestError, match="its data chunk declares 33700 bytes, 32000 are present"):
        decode(with_size(payload, b"data", 33_700))


@pytest.mark.parametrize(
    "encoding", [Encoding("wav", "pcm_s16le", RATE), Encoding("wav", "adpcm_ima_wav", RATE)]
)
def test_a_chunk_that_claims_more_than_there_is_is_refused_before_any_library_sees_it(
    encoding: Encoding,
) -> None:
    payload = encode(tone(0.5), encoding)
    with pytest.raises(RequestError, match="its LIST chunk declares 2147483647 bytes"):
        decode(with_size(payload, b"LIST", 0x7FFFFFFF))


def test_other_codecs_in_a_wav_still_go_to_ffmpeg() -> None:
    audio = decode(encode(tone(1.0), Encoding("wav", "adpcm_ima_wav", RATE)))
    np.testing.assert_allclose(audio.samples[100 : RATE - 100], tone(1.0)[100 : RATE - 100], atol=0.02)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"RIFF\x24\0\0\0WAVE", "a WAV without a data chunk"),
        (b"RIFF\x24\0\0\0WAVEdata\x04\0\0\0\1\2\3\4", "a WAV without its format before its data"),
        (with_size(wav(tone(0.1)), b"data", 0)[:78], "no samples"),
    ],
)
def test_what_is_no_wav_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode(payload)
