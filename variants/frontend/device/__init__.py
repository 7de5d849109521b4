"""The front end where the model is: the host decodes containers, and a batch of recordings passes the rest.

Two halves. ``build`` is the front-end processes' and knows no torch: container bytes to one segment, the
whole recording as it came. ``on_device`` is the inference process's: recordings that a batching choice put
together become rows on the model's device, are resampled, cleaned and searched for speech there, and are
heard by the model without leaving it. Of the samples nothing comes back.

Everything is torch and runs on a CPU as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from harness.audio.decode import decode
from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.errors import UsageError
from harness.protocols import Allocate, Segment
from harness.protocols.options import Seconds
from variants.frontend.config import FrontendConfig
from variants.frontend.host import Chain

if TYPE_CHECKING:
    from variants.frontend.device.stages import DeviceStages
    from variants.models.types import TdtModel

_FULL_SCALE = np.float32(2.0**15)
_LOOK = 4096  # samples by which most recordings that are not 16 bits wide are told


@dataclass(frozen=True)
class Options(FrontendConfig):
    """The host's options, and a noise filter that it has not (``denoise=spectral_gate``). ``denoise=webrtc``
    is the host's, a loop over frames: on a GPU it is for large batches, not for one request.
    ``resample_quality`` is that of live streams' recordings alone."""

    DENOISERS: ClassVar[tuple[str, ...]] = ("none", "webrtc", "spectral_gate")
    VADS: ClassVar[tuple[str, ...]] = ("none", "silero")

    recurrence: Literal["torch", "kernel"] = "torch"
    """All steps of Silero's LSTM: torch's own, on a GPU a launch or more for each, or one kernel (GPU,
    cuda-python)."""
    graphs_up_to_s: Seconds = 64.0
    """On a GPU: batches of recordings up to so long replay CUDA graphs of each stage that is graphed; a
    longer one voids the run. 0: no graphs."""
    max_wer_difference: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """How far word error rates may be from those of the host's front end: the run's tolerance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_rate != 16000:
            raise UsageError(f"frontend.sample_rate={self.sample_rate}: frontend=device works at 16000 Hz")


def build(config: Options) -> Chain:
    """The host's half: one stage, ``decode``, whose segment is the recording at its own rate."""
    pool = DecoderPool() if config.isolate_decoder else None
    recording = partial(_recording, limits=config.limits, target=Target(config.mix), pool=pool)
    return Chain((("decode", recording),))


def on_device(config: Options, model: TdtModel) -> DeviceStages:
    """The inference process's half, on the device of ``model``."""
    from variants.frontend.device.stages import DeviceStages

    return DeviceStages(config, model)


def reference(config: Options) -> dict[str, Any]:
    """The leaf of the front end to whose answers this one's are held: the host's with the same options."""
    of_host = {each.name for each in fields(FrontendConfig)}
    given = {key: value for key, value in asdict(config).items() if key in of_host}
    if config.denoise == "spectral_gate":
        given["denoise"] = "webrtc"
    return {"name": "host", **given}


def _recording(
    payload: bytes,
    *,
    limits: Limits,
    target: Target,
    pool: DecoderPool | None,
    allocate: Allocate = np.empty,
) -> list[Segment]:
    audio = decode(payload, limits, target, pool=pool)
    return [Segment(_narrowest(audio.samples, allocate), audio.sample_rate, 0.0)]


def _narrowest(samples: np.ndarray, allocate: Allocate) -> np.ndarray:
    """As int16 where that loses nothing, which is half the bytes on the way to the device."""
    if not _is_pcm16(samples[:_LOOK]) or not _is_pcm16(samples):
        kept = allocate(samples.shape, np.float32)
        np.copyto(kept, samples)
        return kept
    narrow = allocate(samples.shape, np.int16)
    np.multiply(samples, _FULL_SCALE, out=narrow, casting="unsafe")
    return narrow


def _is_pcm16(samples: np.ndarray) -> bool:
    scaled = samples * _FULL_SCALE
    inside = len(samples) == 0 or (scaled.min() >= -_FULL_SCALE and scaled.max() < _FULL_SCALE)
    return bool(inside) and bool(np.array_equal(scaled, np.rint(scaled)))
