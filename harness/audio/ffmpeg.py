"""Every container that no other decoder takes, with FFmpeg's libraries through PyAV.

Encoder delay is removed where the container states it: MP3 (LAME header), MP4 (edit list), Matroska
(codec delay) and Ogg (pre-skip). Raw ADTS streams state none and keep about 60 ms of priming. MP4 keeps
the padding of its last AAC frame (at most 1024 samples, near silence).

Where packets have timestamps, those rule: a gap (muted tracks, lost packets, edit lists) is filled with
silence, so that what comes later keeps its time. Time zero is the container's own start.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import av
import numpy as np

from harness.audio.completeness import is_tag, truncated, what_is_missing
from harness.audio.limits import Limits
from harness.audio.mono import Heard, MonoWriter
from harness.audio.pcm import Channels
from harness.errors import RequestError

#: FFmpeg's demuxers that may look at a payload. A list, because others (playlists) would open
#: further files and addresses that the payload names; and no protocol is let in to open them with.
CONTAINERS = "aac,aiff,caf,flac,m4a,matroska,mov,mp3,mp4,ogg,w64,wav,webm"

# One packet is enough to know a codec: FFmpeg would otherwise read 16-bit WAV files once more, in
# search of DTS hidden in them, at thirty times the cost of reading the samples.
_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", "max_probe_packets": "1"}

_MAGIC = {b"OggS\0": "ogg", b"\x1a\x45\xdf\xa3": "matroska", b"fLaC": "flac", b"caff": "caf"}

#: A frame may lie this far from where the last one ended: live recorders' timestamps jitter by some
#: milliseconds, while a lost packet lasts 20 or more. Drift adds up and is mended when it gets here.
_JITTER_S = 0.03

#: Demuxers of containers in which every packet states its time, and a gap is a pause; in an MP3 it is a
#: tag between joined recordings. In the others time is a count of samples, and a gap is a hole.
_TIMED = ("matroska", "mov", "ogg", "mp3")

_MAX_PLANES = 7  # PyAV looks for the end of eight pointers: with eight planes it reads past them

_DTYPES = {
    f"{name}{planar}": dtype
    for name, dtype in {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}.items()
    for planar in ("", "p")
}

MakeWriter = Callable[[int, int], MonoWriter]
"""``(channels, sample_rate)`` of the first frame to what takes the samples."""


def read(payload: bytes, limits: Limits, make_writer: MakeWriter) -> Heard:
    """Decode the first audio track into a writer. Raises ``RequestError`` for whatever goes wrong in it."""
    try:
        with _open(payload) as container:
            stream = _audio_stream(container, limits)
            return _Reading(payload, container, stream, make_writer).heard()
    except RequestError:
        raise
    except Exception as error:  # PyAV raises what its caller's bytes make it raise
        raise RequestError(
            f"the recording cannot be decoded ({type(error).__name__}: {error}): export it again"
        ) from error


def _open(payload: bytes) -> Any:
    try:
        return av.open(
            io.BytesIO(payload), "r", format=_shown(payload), options=_OPTIONS, metadata_errors="replace"
        )
    except av.FFmpegError as error:
        raise RequestError(
            f"the payload is not a readable recording ({error.strerror}): "
            "send wav, flac, mp3, m4a, webm or ogg audio"
        ) from error


def _shown(payload: bytes) -> str | None:
    """The demuxer of a payload whose first bytes leave no doubt; None where FFmpeg has to try them all."""
    if payload[4:8] == b"ftyp":
        return "mov"
    return next((name for magic, name in _MAGIC.items() if payload.startswith(magic)), None)


def _audio_stream(container: Any, limits: Limits) -> Any:
    for stream in container.streams:
        if stream.type != "audio":
            continue
        context = stream.codec_context
        if context is None:
            raise RequestError("the audio track's codec is unknown: re-encode the recording")
        # Once only, and then replaced: PyAV frees a layout with a map of its own whenever it is looked at.
        channels = context.channels
        if channels > 0:
            limits.check_format(channels, context.sample_rate or limits.min_sample_rate)
            context.layout = f"{channels} channels"
        # One thread decodes, so the cost does not depend on what else the machine does.
        context.thread_count = 1
        return stream
    raise RequestError(
        f"the {container.format.name} container holds no audio track: send a recording with sound"
    )


class _Reading:
    """One pass over one track. Times are seconds of the track's timestamps; positions are samples."""

    def __init__(self, payload: bytes, container: Any, stream: Any, make_writer: MakeWriter) -> None:
        self._payload, self._container, self._stream = payload, container, stream
        self._make_writer = make_writer
        self._writer: MonoWriter | None = None
        self._layout: tuple[int, int] = (0, 0)
        self._packed: Any = None
        self._origin_s = (container.start_time or 0) / av.time_base
        self._tick_s = self._end_s = 0.0

    def heard(self) -> Heard:
        self._take_all()
        if self._writer is None or self._writer.position == 0:
            raise RequestError("the recording holds no samples: it is a header without audio")
        declared_end_s = _declared_end_s(self._container, self._stream)
        missing = what_is_missing(self._payload, self._container.format.name, declared_end_s, self._end_s)
        if missing:
            raise truncated(missing)
        return self._writer.finish()

    def _take_all(self) -> None:
        try:
            for packet in self._container.demux(self._stream):
                for frame in self._decoded(packet):
                    self._take(frame)
        except av.FFmpegError as error:
            raise RequestError(
                f"the recording is truncated or damaged after {self._position_s:.2f} s "
                f"({error.strerror}): send it whole"
            ) from error

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
            return frames
        except av.InvalidDataError:
            if self._container.format.name == "mp3" and is_tag(bytes(packet)):
                return []
            raise

    @property
    def _position_s(self) -> float:
        return self._writer.position / self._writer.sample_rate if self._writer else 0.0

    def _take(self, frame: Any) -> None:
        writer = self._writer or self._begun(frame)
        if (frame.layout.nb_channels, frame.sample_rate) != self._layout:
            raise RequestError(
                f"the recording changes its rate or channels after {self._position_s:.2f} s: "
                "re-encode it at one rate and channel count"
            )
        self._keep_time(frame, writer)
        if self._packed is None:
            writer.append(_values(frame, self._layout[0]))
            return
        for part in self._packed.resample(frame):
            writer.append(_values(part, self._layout[0]))

    def _begun(self, frame: Any) -> MonoWriter:
        """The writer for what is like ``frame``, the first one."""
        self._layout = (frame.layout.nb_channels, frame.sample_rate)
        self._writer = self._make_writer(*self._layout)
        self._tick_s = float(frame.time_base or 0)
        if self._layout[0] > _MAX_PLANES and frame.format.is_planar:  # FFmpeg interleaves them
            self._packed = av.AudioResampler(format=frame.format.packed)
        return self._writer

    def _keep_time(self, frame: Any, writer: MonoWriter) -> None:
        """Fill the gap before ``frame``; where its time lies before what was heard, time starts anew."""
        expected_s = start_s = self._origin_s + writer.position / writer.sample_rate
        if frame.pts is not None:
            start_s = frame.pts * self._tick_s
        if start_s > expected_s + _JITTER_S:
            if not self._container.format.name.startswith(_TIMED):
                raise truncated(f"{start_s - expected_s:.2f} s are missing after {self._position_s:.2f} s")
            writer.silence(round((start_s - expected_s) * writer.sample_rate))
        elif start_s < expected_s - _JITTER_S:
            self._origin_s -= expected_s - start_s
        self._end_s = max(self._end_s, start_s + frame.samples / writer.sample_rate)


def _values(frame: Any, channels: int) -> Channels:
    """Each channel's samples where they lie; what ``to_ndarray`` does at a fraction of its cost."""
    dtype, count = _DTYPES[frame.format.name], frame.samples
    planes = frame.planes
    if len(planes) == channels:
        return [np.ndarray(count, dtype, plane) for plane in planes]
    return np.ndarray((count, channels), dtype, planes[0]).T


def _declared_end_s(container: Any, stream: Any) -> float | None:
    """Where the container states, or FFmpeg estimates, that the sound ends; None where nobody says."""
    if stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    # Matroska states one end for all tracks, so it is the audio's only where audio is alone.
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None
