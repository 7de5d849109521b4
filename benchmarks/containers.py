"""Container bytes to samples: every format, length and library, on one core.

    python -m benchmarks.containers --json containers.json

Libraries (``soundfile``, ``pyav``, ``miniaudio``) are timed at their own pace: the whole recording to floats
in one call, nothing checked, nothing mixed. The fastest of them, found in a few calls before, is the floor.
``decode`` is what the front end does with the same bytes, in the calling process, and ``isolated`` the same
in a process that may die of them. They are compared by what they take of a core, of this thread's and the
other process's, which neighbours lengthen less than the time by the clock beside it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import soundfile

from benchmarks import core
from harness.arguments import positive_seconds
from harness.audio import ffmpeg
from harness.audio.decode import decode
from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.mono import MonoWriter
from harness.audio.reading import Nowhere, read
from harness.audio.target import Target
from harness.command import command
from harness.corpus.encode import encode
from harness.corpus.speech import Voice, speak
from harness.errors import HarnessError, InvalidMeasurementError, UnavailableError
from harness.protocols import Audio, Evidence
from harness.spans import now_ns

LENGTHS_S = (2.0, 10.0, 120.0)
CALIBRATIONS = 5
Load = Callable[[bytes], np.ndarray]
"""A payload to its samples: ``[n]``, or ``[n, channels]`` of any channels."""


@dataclass(frozen=True, slots=True)
class Format:
    """What is decoded, and how far two right decoders of it are apart: the difference's energy over the
    sound's, as a ratio of amplitudes."""

    name: str
    container: str
    sample_rate: int
    channels: int = 1
    subtype: str | None = None
    """libsndfile's, of what this project's audio sets do not contain."""
    within: float = 0.0


FORMATS = (
    Format("wav, 16 bits, 16 kHz", "wav", 16_000),
    Format("wav, mu-law, 8 kHz", "wav", 8_000, subtype="ULAW"),
    Format("flac, 16 bits, 16 kHz", "flac", 16_000),
    Format("flac, 24 bits, 48 kHz, stereo", "flac", 48_000, 2, subtype="PCM_24"),
    Format("mp3, 16 kHz", "mp3", 16_000, within=1e-3),
    Format("mp3, 44.1 kHz, stereo", "mp3", 44_100, 2, within=1e-3),
    Format("ogg, vorbis, 16 kHz", "ogg", 16_000, subtype="VORBIS", within=1e-3),
    # Speech coded at 16 kHz or less: how it gets to 48 kHz is left to decoders (RFC 6716, section 4.2.9).
    Format("ogg, opus, 48 kHz", "ogg", 48_000, within=0.5),
    Format("webm, opus, 48 kHz", "webm", 48_000, within=0.5),
    Format("m4a, aac, 16 kHz", "m4a", 16_000, within=1e-3),
)


# ---------------------------------------------------------------- libraries


def by_pyav(payload: bytes) -> np.ndarray:
    with av.open(io.BytesIO(payload), "r") as container:
        container.streams.audio[0].codec_context.thread_count = 1
        frames = [np.atleast_2d(frame.to_ndarray()) for frame in container.decode(audio=0)]
        channels = container.streams.audio[0].codec_context.channels
    whole = np.concatenate(frames, axis=1)
    full_scale = 1.0 if whole.dtype.kind == "f" else 2.0 ** (8 * whole.itemsize - 1)
    scaled = whole.astype(np.float32) / np.float32(full_scale)
    return scaled.T if len(scaled) == channels else scaled.reshape(-1, channels)


def by_soundfile(payload: bytes) -> np.ndarray:
    samples: np.ndarray = soundfile.read(io.BytesIO(payload), dtype="float32")[0]
    return samples


def by_miniaudio(miniaudio: Any, format: Format, payload: bytes) -> np.ndarray:
    """In its own words for each format, which decode at the recording's rate and width."""
    own = {"wav": miniaudio.wav_read_f32, "flac": miniaudio.flac_read_f32, "mp3": miniaudio.mp3_read_f32}
    found = own.get(format.container, miniaudio.vorbis_read)(payload)
    samples = np.frombuffer(found.samples, np.dtype(found.samples.typecode)).reshape(-1, found.nchannels)
    return samples if samples.dtype.kind == "f" else samples * np.float32(2.0**-15)


def libraries(format: Format) -> tuple[dict[str, Load], dict[str, HarnessError]]:
    """Those that know ``format``, and why one that does is not among them."""
    known: dict[str, Load] = {"pyav": by_pyav}
    if format.container in ("m4a", "webm"):
        return known, {}
    known["soundfile"] = by_soundfile
    if "opus" in format.name:
        return known, {}
    try:
        known["miniaudio"] = partial(by_miniaudio, importlib.import_module("miniaudio"), format)
    except ImportError:
        return known, {
            "miniaudio": UnavailableError("the package miniaudio is missing: pip install miniaudio")
        }
    return known, {}


# ---------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Decoding:
    """``core.Contender``: one way to the samples of one payload."""

    load: Load
    payload: bytes
    expected: np.ndarray
    """float32 ``[n]``, the mean of the channels, as FFmpeg has them."""
    format: Format
    others: Sequence[int] = ()
    """The processes that work beside this thread."""

    def agree(self) -> Mapping[str, Any]:
        found = self.load(self.payload)
        mono = found if found.ndim == 1 else found.mean(axis=1, dtype=np.float32)
        if mono.shape != self.expected.shape:
            raise InvalidMeasurementError(f"{len(mono)} samples where FFmpeg finds {len(self.expected)}")
        apart = float(np.linalg.norm(mono - self.expected) / np.linalg.norm(self.expected))
        if apart > self.format.within + np.finfo(np.float32).eps:
            raise InvalidMeasurementError(
                f"its samples differ from FFmpeg's, by {apart:.2g} of their amplitude"
            )
        return {"apart": apart}

    def run(self) -> core.Sample:
        theirs_ns, ours_ns, start_ns = _cores_ns(self.others), time.thread_time_ns(), now_ns()
        self.load(self.payload)
        wall_s, ours_ns = (now_ns() - start_ns) * 1e-9, time.thread_time_ns() - ours_ns
        core_s = (ours_ns + _cores_ns(self.others) - theirs_ns) * 1e-9
        audio_s = len(self.expected) / self.format.sample_rate
        return {"core_s": core_s, "wall_s": wall_s, "times_real": audio_s / core_s}

    def evidence(self) -> Evidence:
        return {}


def _cores_ns(pids: Sequence[int]) -> int:
    """What the main threads of ``pids`` have had of a core."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


def reference(payload: bytes) -> np.ndarray:
    parts: list[np.ndarray] = []
    make_writer = partial(MonoWriter, Limits(), Target(), lambda block: parts.append(block.copy()), 0)
    ffmpeg.read(payload, Limits(), make_writer)
    return np.concatenate(parts)


def trials(options: argparse.Namespace, _results: core.Results) -> Iterator[core.Trial]:
    said = speak(
        "It was the best of times, my friend, and the driver was lucky with great care.", Voice("en")
    )
    pool = DecoderPool()
    for format in FORMATS:
        for length_s in options.lengths:
            yield _trial(format, length_s, recording(said, format, length_s), pool)


def _trial(format: Format, length_s: float, payload: bytes, pool: DecoderPool) -> core.Trial:
    known, missing = libraries(format)
    expected = reference(payload)
    decode(payload, pool=pool)  # starts its process
    others = [child.pid for child in psutil.Process().children()]
    ways: dict[str, Load] = {
        "decode": lambda payload: decode(payload).samples,
        "isolated": lambda payload: decode(payload, pool=pool).samples,
        **known,
    }
    contenders = {
        name: Decoding(load, payload, expected, format, others if name == "isolated" else ())
        for name, load in ways.items()
    }
    floors = {name: _fastest_s(contenders[name]) for name in known}
    fastest = min(floors, key=lambda name: floors[name])
    return core.Trial(
        panel=format.name,
        size_name="audio length",
        size=length_s,
        unit=" s",
        contenders=contenders,
        floor_s=floors[fastest],
        facts={
            "bytes": len(payload),
            "decoder": read(payload, Limits(), Target(), Nowhere()).decoder,
            "floor_is": fastest,
        },
        missing=missing,
    )


def _fastest_s(contender: Decoding) -> float:
    return min(contender.run()["core_s"] for _ in range(CALIBRATIONS))


def recording(said: Audio, format: Format, length_s: float) -> bytes:
    """Speech over and over, in faint noise, ``length_s`` long."""
    count = round(length_s * said.sample_rate)
    faint = np.random.default_rng(3).normal(0, 1e-3, count)
    audio = Audio((np.resize(said.samples, count) + faint).astype(np.float32), said.sample_rate)
    if format.subtype is None:
        return encode(audio, format.container, format.sample_rate, format.channels, None)
    plain = encode(audio, "flac", format.sample_rate, format.channels, None)
    buffer = io.BytesIO()
    samples, rate = soundfile.read(io.BytesIO(plain))
    soundfile.write(buffer, samples, rate, format=format.container.upper(), subtype=format.subtype)
    return buffer.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.containers", description="Time the decoding of every container."
    )
    parser.add_argument(
        "--lengths", type=positive_seconds, nargs="+", default=LENGTHS_S, help="seconds of audio (2 10 120)"
    )
    core.add_options(parser, rounds=30)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.containers", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
