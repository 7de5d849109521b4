"""Graphs of stages: which shapes there are, and on a GPU that a replay is the stage."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness.protocols import Segment
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE, noise, speech
from variants.frontend import device
from variants.frontend.device.graphs import Shapes
from variants.frontend.device.silero import Recurrence
from variants.frontend.device.stages import DeviceStages
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build

SHAPES = Shapes(64.0, RATE)


def test_lengths_grow_by_a_quarter_or_half_a_second_to_the_last() -> None:
    assert (SHAPES.lengths_s[0], SHAPES.lengths_s[-1], len(SHAPES.lengths_s)) == (0.5, 64.0, 22)
    for shorter, longer in pairwise(SHAPES.lengths_s):
        assert shorter < longer <= max(shorter + 0.5, shorter * 1.25)


@pytest.mark.parametrize(
    ("rows", "samples", "expected"),
    [
        (1, 1, (1, 8000)),
        (1, 8000, (1, 8000)),
        (3, 8001, (4, 16_000)),
        (9, 64 * RATE, (16, 64 * RATE)),
        (1, 64 * RATE + 1, None),
    ],
)
def test_a_batch_goes_to_the_smallest_shape_that_holds_it(
    rows: int, samples: int, expected: tuple[int, int] | None
) -> None:
    assert SHAPES.padded(rows, samples) == expected


def test_a_last_length_between_the_steps_is_one() -> None:
    assert Shapes(1.7, RATE).lengths_s == (0.5, 1.0, 1.5, 1.7)


def recordings() -> list[list[Segment]]:
    """Int16 and float, of three rates."""
    clips = [(speech(), RATE), (noise(1.3, rate=44_100, peak=0.01), 44_100), (np.tile(speech(), 2), 48_000)]
    narrow = [(np.round(samples * 32767).astype(np.int16), rate) for samples, rate in clips]
    return [[Segment(samples, rate, 0.0)] for samples, rate in [*clips, *narrow]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recurrence", ["torch", "kernel"])
@pytest.mark.parametrize("denoise", ["none", "spectral_gate", "webrtc"])
def test_graphs_hear_what_the_cpu_hears(denoise: str, recurrence: Recurrence) -> None:
    found = {}
    for name, graphs_up_to_s in (("cpu", 0.0), ("cuda", 0.0), ("graphs", 64.0)):
        options = ModelOptions(
            name="parakeet_tiny", weights="embedded", device="cpu" if name == "cpu" else "cuda"
        )
        model = dataclasses.replace(build(options), features_on="device")
        chosen = device.Options(
            denoise=denoise,
            graphs_up_to_s=graphs_up_to_s,
            recurrence="torch" if name == "cpu" else recurrence,
        )
        stages = DeviceStages(chosen, model)
        stages.warm_up([0.5, 10.0])
        for _ in range(2):
            heard = stages(recordings(), SpanRecorder())
        rows = range(len(heard.frames))
        found[name] = (heard.bounds, torch.as_tensor(heard.features(rows).values).float().cpu().numpy())
        evidence = stages.evidence()
        assert evidence["not_engaged"] is None
        if name == "graphs":
            own = {"vad"} | ({"denoise"} if denoise == "spectral_gate" else set())
            assert evidence["captures"].keys() == evidence["replays"].keys() == own
            assert evidence["replays"]["vad"] > evidence["captures"]["vad"]
    for name in ("cuda", "graphs"):
        assert found[name][0] == found["cpu"][0]
        # WebRTC's thresholds make much of rounding in a frame here and there.
        assert np.abs(found[name][1] - found["cpu"][1]).mean() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_recording_longer_than_every_graph_voids_the_run() -> None:
    options = ModelOptions(name="parakeet_tiny", weights="embedded", device="cuda")
    model = dataclasses.replace(build(options), features_on="device")
    stages = DeviceStages(device.Options(graphs_up_to_s=1.0), model)
    stages([[Segment(speech(), RATE, 0.0)]], SpanRecorder())
    assert "raise frontend.graphs_up_to_s=1" in stages.evidence()["not_engaged"]
