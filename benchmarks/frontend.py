"""Stages of the front end, in batches on a device and one clip after another on one core of the host.

    python -m benchmarks.frontend --batches 1 8 32 128 --json frontend.json

Speech in noise, as long as ``--length``, is already where a stage works: what it costs to bring it there is
the stage ``upload``. A time is the wall time of one call for the whole batch and the wait for the device;
``real_time`` is the audio of the batch over that. The floor is reading its input and writing its output
once, at the bandwidth that copies of 256 MiB have here: within the device's memory, and of ``upload`` from
the host's; what fits into a cache may be faster. Outputs are held to the host's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import soxr
import torch

from benchmarks import core
from harness.arguments import positive_integer, positive_seconds
from harness.command import command
from harness.corpus.speech import VOICES, speak
from harness.errors import InvalidMeasurementError
from harness.protocols import Audio, Evidence
from variants.frontend.denoise import denoise
from variants.frontend.device.resample import Resampler
from variants.frontend.device.silero import BatchSilero
from variants.frontend.device.spectral_gate import SpectralGate
from variants.frontend.device.webrtc import BatchWebrtc
from variants.frontend.vad import SileroVad
from variants.models.device_features import DeviceLogMel
from variants.models.features import FeatureConfig, LogMel
from variants.models.options import ModelOptions, resolve_device
from variants.upload import Upload

RATE, SOURCE_RATE = 16_000, 44_100
_LEVEL = 2
_NOISE = 0.01
_COPIED_BYTES = 1 << 28

OnHost = Callable[[np.ndarray], np.ndarray]
OnDevice = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage on both sides. ``within`` bounds the largest difference of an output, in the unit of its own
    largest value; a stage that the host has not is held to its own output for one clip."""

    name: str
    device: OnDevice
    host: OnHost | None
    within: float
    rate: int = RATE


@dataclass
class Running:
    """``core.Contender``: a batch through one side of a stage."""

    name: str
    call: Callable[[], Any]
    agreement: Callable[[], Mapping[str, Any]]
    synchronize: Callable[[], None]
    audio_s: float
    calls: int = field(default=0, init=False)

    def agree(self) -> Mapping[str, Any]:
        return self.agreement()

    def run(self) -> core.Sample:
        self.synchronize()
        start = time.perf_counter()
        self.call()
        self.synchronize()
        seconds = time.perf_counter() - start
        self.calls += 1
        return {"call_s": seconds, "real_time": self.audio_s / seconds}

    def evidence(self) -> Evidence:
        return {"calls": self.calls}


def stages(device: torch.device) -> list[Stage]:
    """In the order of the path."""
    upload, features = Upload(device), DeviceLogMel(FeatureConfig(), RATE, device)
    detector, gate = BatchSilero(device), SpectralGate(_LEVEL, device)
    on_host, mel = SileroVad(), LogMel(FeatureConfig(), RATE)

    def heard(samples: torch.Tensor) -> torch.Tensor:
        rows = np.arange(len(samples))
        whole = np.stack((rows, 0 * rows, 0 * rows + samples.shape[1]), axis=1)
        return torch.as_tensor(features.of_stretches(samples, whole).values)

    def heard_on_host(samples: np.ndarray) -> np.ndarray:
        return mel.of(samples)

    def cleaned(samples: np.ndarray) -> np.ndarray:
        return denoise(Audio(samples, RATE), level=_LEVEL).samples

    return [
        Stage("upload", lambda samples: upload([*samples.numpy()]), None, 0.0),
        Stage(
            "resample",
            Resampler(SOURCE_RATE, RATE, device),
            lambda samples: soxr.resample(samples, SOURCE_RATE, RATE, quality="HQ"),
            0.02,  # what lies above soxr's pass band
            SOURCE_RATE,
        ),
        Stage("denoise, webrtc", BatchWebrtc(_LEVEL, device), cleaned, 0.02),
        Stage(
            "denoise, spectral_gate",
            lambda samples: gate(samples, samples.new_full((len(samples),), samples.shape[1]).long()),
            None,
            1e-4,
        ),
        Stage("vad", detector, lambda samples: on_host(Audio(samples, RATE)).probabilities, 1e-3),
        Stage("features", heard, heard_on_host, 1e-3),
    ]


def trials(options: argparse.Namespace, results: core.Results) -> Iterator[core.Trial]:
    """Every batch size of every stage that was asked for."""
    device = resolve_device(ModelOptions("parakeet_tiny", device=options.device))
    within, up = bytes_per_s(device, device), bytes_per_s(torch.device("cpu"), device)
    results.note(
        device=str(device),
        length_s=options.length,
        bytes_per_s=within,
        upload_bytes_per_s=up,
        cuda=torch.version.cuda,
    )
    for stage in stages(device):
        for batch in options.batches if stage.name.partition(",")[0] in options.stages else ():
            clips = speech_in_noise(batch, options.length, stage.rate)
            if stage.name == "upload":
                clips = (clips * 2.0**15).astype(np.int16)
            bandwidth = up if stage.name == "upload" else within
            yield trial(stage, clips, device, bandwidth, compare_host=batch <= options.host_up_to)


@torch.inference_mode()
def trial(
    stage: Stage, clips: np.ndarray, device: torch.device, bandwidth: float, compare_host: bool
) -> core.Trial:
    """One stage on ``clips`` ``[B, n]``."""
    samples = torch.from_numpy(clips) if stage.name == "upload" else torch.from_numpy(clips).to(device)
    audio_s = clips.size / stage.rate
    run = torch.inference_mode()(partial(stage.device, samples))
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing
    contenders: dict[str, Running] = {
        "device": Running("device", run, partial(agreement, stage, run, clips), wait, audio_s)
    }
    host = stage.host
    if host is not None and compare_host:
        contenders["host, one core"] = Running(
            "host", lambda: [host(clip) for clip in clips], dict, _nothing, audio_s
        )
    moved = samples.nbytes + run().nbytes
    return core.Trial(
        panel=f"Front end: {stage.name}",
        size_name="batch",
        size=len(clips),
        contenders=contenders,
        floor_s=moved / bandwidth,
        facts={"audio_s": audio_s, "moved_bytes": moved},
    )


def agreement(stage: Stage, run: Callable[[], torch.Tensor], clips: np.ndarray) -> Mapping[str, float]:
    """Of the batch's last row. Raises ``InvalidMeasurementError`` where it is not the host's."""
    found = run()[-1].cpu().numpy()
    if stage.name == "upload":
        expected = clips[-1].astype(np.float32)
    elif stage.host is not None:
        expected = stage.host(clips[-1])
    else:
        device = run().device
        expected = stage.device(torch.from_numpy(clips[-1:]).to(device))[0].cpu().numpy()
    found = found[tuple(slice(width) for width in expected.shape)]
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not apart <= stage.within:
        raise InvalidMeasurementError(
            f"{stage.name}: {apart:.2g} of its largest value away from what it is held to, "
            f"at most {stage.within:g}"
        )
    return {"apart": apart}


def speech_in_noise(batch: int, length_s: float, rate: int) -> np.ndarray:
    """``[B, n]`` float32: the same speech, begun at another place in every clip, in noise."""
    spoken = speak("the quick brown fox jumps over the lazy dog", next(iter(VOICES.values())))
    speech = soxr.resample(spoken.samples, spoken.sample_rate, rate, quality="HQ")
    rng, count = np.random.default_rng(5), round(length_s * rate)
    clips = np.stack([np.resize(np.roll(speech, 997 * number), count) for number in range(batch)])
    noisy: np.ndarray = clips + np.float32(_NOISE) * rng.standard_normal(clips.shape, dtype=np.float32)
    return noisy


def bytes_per_s(source_device: torch.device, device: torch.device) -> float:
    """Read and written while memory is copied from one to the other, the best of five."""
    pinned = source_device.type == "cpu" and device.type == "cuda"
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=source_device, pin_memory=pinned)
    target = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2.0 * _COPIED_BYTES / min(seconds)


def _nothing() -> None:
    """The CPU has finished when a call returns."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontend", description="Time the stages of the front end."
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batches", nargs="+", type=positive_integer, default=[1, 8, 32, 128])
    parser.add_argument("--length", type=positive_seconds, default=10.0, help="seconds of a clip (10)")
    parser.add_argument(
        "--stages", nargs="+", default=list(_NAMES), choices=_NAMES, help="of the path (default: all)"
    )
    parser.add_argument(
        "--host-up-to", type=int, default=8, help="largest batch that the host works through too (8)"
    )
    core.add_options(parser, rounds=20)
    return parser


_NAMES = ("upload", "resample", "denoise", "vad", "features")


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.frontend", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
