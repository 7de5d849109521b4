"""Front ends and engines for the tests, importable by the processes under test."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.errors import UnavailableError
from harness.protocols import Engine, Frontend, Segment, ServiceSpec, Transcript
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from variants.batching import alone, continuous
from variants.frontend.config import FrontendConfig
from variants.frontend.host import build as build_frontend
from variants.models import fixed_cost
from variants.topology import collapsed, inprocess, microservices
from variants.topology.types import Backend

TOPOLOGIES = {"inprocess": inprocess, "collapsed": collapsed, "microservices": microservices}


def make_frontend(**options: Any) -> Frontend:
    return build_frontend(FrontendConfig(**{"vad": "webrtc", **options}))


def make_engine(**options: Any) -> Engine:
    """Its text is a checksum of the samples it was given: a byte that differs anywhere changes it."""
    cost = SimpleNamespace(options=fixed_cost.Options(**options))
    return alone.build(fixed_cost.build(cost), NoOptions())


def make_batching_engine(**options: Any) -> Engine:
    """The same behind a choice that looks for more work before each step."""
    cost = SimpleNamespace(options=fixed_cost.Options(**options))
    return continuous.build(fixed_cost.build(cost), continuous.Options())


class MortalEngine(fixed_cost.FixedCostEngine):
    """Dies of speech longer than five seconds, as a bug in native code would have it."""

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        if sum(len(segment.samples) for segments in recordings for segment in segments) > 5 * 16_000:
            os._exit(17)
        return super().transcribe(recordings, spans)


def make_mortal_engine() -> Engine:
    return alone.build(MortalEngine(fixed_cost.Options()), NoOptions())


def refuse() -> Engine:
    raise UnavailableError("model=parakeet needs a GPU and this machine has none")


def crash() -> Engine:
    os._exit(9)


def build(
    topology: str,
    ipc: str = "shared_memory",
    engine: Any = None,
    devices: Sequence[int] = (),
    **options: Any,
) -> Backend:
    """A service with the real front end, not yet started."""
    link = {} if topology == "inprocess" else {"name": ipc, "options": {}}
    made = partial(make_frontend), engine or partial(make_engine)
    spec = ServiceSpec(*made, ipc=link, options=options, devices=devices)
    backend: Backend = TOPOLOGIES[topology].build(spec)
    return backend


def recording(length_s: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> bytes:
    """A WAV of bursts of harmonics over noise: voice enough for a voice activity detector."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(length_s * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 8))
    gate = np.sin(2 * np.pi * 0.35 * t + seed) > -0.3
    sound = 5000 * voice * gate + rng.normal(0, 30, t.shape)
    frames = np.stack([sound * (1 - 0.3 * channel) for channel in range(channels)], axis=1).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(frames.tobytes())
    return buffer.getvalue()
