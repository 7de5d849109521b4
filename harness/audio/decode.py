"""Container bytes to samples, in memory, with FFmpeg's libraries through PyAV.

Encoder delay is removed where the container states it: MP3 (LAME header), MP4 (edit list), Matroska
(codec delay) and Ogg (pre-skip). Raw ADTS streams state none and keep about 60 ms of priming. MP4 keeps
the padding of its last AAC frame (at most 1024 samples, near silence).
"""

from __future__ import annotations

import io

import av
import numpy as np

from harness.audio.completeness import what_is_missing
from harness.audio.limits import Limits
from harness.errors import RequestError
from harness.protocols import Allocate, Audio

#: FFmpeg's demuxers that may look at a payload. A list, because others (playlists) would open
#: further files and addresses that the payload names.
CONTAINERS = "aac,aiff,caf,flac,m4a,matroska,mov,mp3,mp4,ogg,w64,wav,webm"

# One packet is enough to know a codec: FFmpeg would otherwise read 16-bit WAV files once more, in
# search of DTS hidden in them, at thirty times the cost of reading the samples.
_OPTIONS = {"format_whitelist": CONTAINERS, "max_probe_packets": "1"}

#: Decoded bytes a payload byte may stand for when room is made ahead (Opus at 6 kbit/s: 256), so that
#: a header cannot claim memory that its payload does not back. Longer audio grows the buffer instead.
_MAX_EXPANSION = 512

_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}


def decode(payload: bytes, *, max_audio_s: float, allocate: Allocate = np.empty) -> Audio:
    """First audio track of ``payload``: float32 ``[channels, n]`` at its own rate, nominally in [-1, 1].

    One thread decodes, so the cost does not depend on what else the machine does. Raises
    ``RequestError`` for a payload that is empty, damaged, not audio, without samples, longer than
    ``max_audio_s``, that holds NaN or infinity, or that ends before its container says.
    """
    if not payload:
        raise RequestError("the payload is empty (0 bytes): send the recording's bytes")
    container = _open(payload)
    with container:
        stream = _audio_stream(container)
        declared_s = _declared_s(container, stream)
        _refuse_long(declared_s or 0.0, max_audio_s)
        expected = _expected_samples(declared_s, stream, len(payload))
        audio = _read(container, stream, expected, max_audio_s, allocate)
        missing = what_is_missing(payload, container.format.name, declared_s, audio.duration_s)
    if missing:
        raise RequestError(f"the recording is truncated or damaged: {missing}; send it whole")
    _refuse_non_finite(audio)
    return audio


def _open(payload: bytes) -> av.container.InputContainer:
    try:
        return av.open(io.BytesIO(payload), "r", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise RequestError(
            f"the payload is not a readable recording ({error.strerror}): "
            "send wav, flac, mp3, m4a, webm or ogg audio"
        ) from error


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    for stream in container.streams.audio:
        if stream.codec_context is None:
            raise RequestError("the audio track's codec is unknown: re-encode the recording")
        stream.codec_context.thread_count = 1
        return stream
    raise RequestError(
        f"the {container.format.name} container holds no audio track: send a recording with sound"
    )


def _declared_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """Length that the container states or FFmpeg estimates, in seconds."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Matroska states one length for all tracks, so it is the audio's only where audio is alone.
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def _refuse_long(duration_s: float, max_audio_s: float) -> None:
    if duration_s > max_audio_s:
        raise RequestError(
            f"the recording lasts {duration_s:.0f} s or more, above frontend.max_audio_s={max_audio_s:g}: "
            "split it or raise that limit"
        )


def _expected_samples(declared_s: float | None, stream: av.AudioStream, payload_bytes: int) -> int:
    """Samples per channel to make room for: the declared length as far as the payload can back it."""
    context = stream.codec_context
    backed = _MAX_EXPANSION * payload_bytes // (4 * max(context.channels, 1))
    return min(int((declared_s or 1.0) * max(context.sample_rate, 1)) + 8192, backed)


def _read(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    expected: int,
    max_audio_s: float,
    allocate: Allocate,
) -> Audio:
    samples: _SampleBuffer | None = None
    try:
        for frame in container.decode(stream):
            samples = samples or _SampleBuffer(frame, expected, allocate)
            samples.append(frame)
            _refuse_long(samples.duration_s, max_audio_s)
    except av.FFmpegError as error:
        heard_s = samples.duration_s if samples else 0.0
        raise RequestError(
            f"the recording is truncated or damaged after {heard_s:.2f} s ({error.strerror}): send it whole"
        ) from error
    if samples is None or samples.duration_s == 0:
        raise RequestError("the recording holds no samples: it is a header without audio")
    return Audio(samples.take(), samples.sample_rate)


class _SampleBuffer:
    """Growing float32 ``[channels, n]``: each decoded frame is converted once, in place."""

    def __init__(self, frame: av.AudioFrame, expected: int, allocate: Allocate) -> None:
        self._allocate = allocate
        self.sample_rate = frame.sample_rate
        self._layout = (frame.sample_rate, frame.layout.nb_channels)
        self._data = allocate((frame.layout.nb_channels, max(expected, frame.samples)), np.float32)
        self._length = 0

    @property
    def duration_s(self) -> float:
        return self._length / self.sample_rate

    def append(self, frame: av.AudioFrame) -> None:
        if (frame.sample_rate, frame.layout.nb_channels) != self._layout:
            raise RequestError(
                f"the recording changes its rate or channels after {self.duration_s:.2f} s: "
                "re-encode it at one rate and channel count"
            )
        end = self._length + frame.samples
        if end > self._data.shape[1]:
            self._grow(end)
        _convert(frame, self._data[:, self._length : end])
        self._length = end

    def _grow(self, needed: int) -> None:
        data = self._allocate((self._data.shape[0], max(needed, self._data.shape[1] * 3 // 2)), np.float32)
        data[:, : self._length] = self._data[:, : self._length]
        self._data = data

    def take(self) -> np.ndarray:
        return self._data[:, : self._length]


def _convert(frame: av.AudioFrame, out: np.ndarray) -> None:
    """Write ``frame`` (any of FFmpeg's sample formats) into ``out`` ``[channels, n]`` in [-1, 1]."""
    values = frame.to_ndarray()
    if frame.format.is_packed:  # [1, n * channels]
        values = values.reshape(-1, out.shape[0]).T
    kind = frame.format.name.removesuffix("p")
    np.multiply(values, np.float32(_SCALES[kind]), out=out, casting="same_kind")
    if kind == "u8":
        out -= 1.0


def _refuse_non_finite(audio: Audio) -> None:
    # A NaN anywhere makes the extremes NaN: two passes without a temporary array.
    for channel in audio.samples:
        if not (np.isfinite(channel.min()) and np.isfinite(channel.max())):
            at_s = int(np.argmin(np.isfinite(channel))) / audio.sample_rate
            raise RequestError(f"the recording holds NaN or infinity at {at_s:.3f} s: export it again")


def decoded_length_s(payload: bytes, limits: Limits) -> float:
    """The recording's true length in seconds: of what was decoded, never of what a header states.

    Raises ``RequestError`` as ``decode`` does.
    """
    return decode(payload, max_audio_s=limits.max_audio_s).duration_s
