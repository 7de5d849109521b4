"""Every knob of the front end, checked where it enters.

Plain types and nested dataclasses, so that ``FrontendConfig`` is a node of the structured configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

from harness.audio.limits import Limits
from harness.audio.target import MIXES
from harness.errors import UsageError

RESAMPLE_QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")
WEBRTC_VAD_RATES = (8000, 16000, 32000, 48000)


@dataclass(frozen=True)
class SegmentConfig:
    """How speech probabilities become segments. Defaults are those seen in production voice APIs,
    except ``max_segment_s``, which is the longest clip that offline models are usually fed."""

    threshold: float = 0.3
    """A window at or above this probability starts speech."""
    hysteresis: float = 0.15
    """Speech goes on while the probability stays at or above ``threshold - hysteresis``."""
    min_silence_s: float = 0.5
    """Shorter pauses do not end a segment."""
    min_speech_s: float = 0.25
    """Shorter speech is dropped."""
    padding_s: float = 0.25
    """Audio kept on both sides of speech, at most half of the gap to the neighbour."""
    max_segment_s: float = 30.0
    """Longer segments, padding included, are split."""
    split_search_s: float = 5.0
    """How far before the limit the quietest place for a split is looked for."""

    def __post_init__(self) -> None:
        _require(0 < self.threshold <= 1, "segment.threshold", self.threshold, "above 0 and at most 1")
        _require(
            0 <= self.hysteresis < self.threshold,
            "segment.hysteresis",
            self.hysteresis,
            "below segment.threshold",
        )
        for name in ("min_silence_s", "min_speech_s", "padding_s", "split_search_s"):
            _require(getattr(self, name) >= 0, f"segment.{name}", getattr(self, name), "zero or more seconds")
        _require(self.max_segment_s >= 0.5, "segment.max_segment_s", self.max_segment_s, "at least 0.5 s")


@dataclass(frozen=True)
class FrontendConfig:
    """The whole front end. Raises ``UsageError`` naming the key for a value it cannot work with."""

    DENOISERS: ClassVar[tuple[str, ...]] = ("none", "webrtc")
    VADS: ClassVar[tuple[str, ...]] = ("none", "webrtc", "silero")

    sample_rate: int = 16000
    """Rate of everything after the resample stage, in Hz."""
    max_audio_s: float = 7200.0
    """Longer recordings are refused before they fill the memory."""
    max_bytes: int = 2**31
    """Larger containers are refused unread."""
    max_channels: int = 64
    min_sample_rate: int = 4000
    """Lowest rate of a recording, in Hz."""
    max_sample_rate: int = 384_000
    max_decode_s: float = 60.0
    """After this time a decoder is ended, and the recording refused."""
    isolate_decoder: bool = True
    """Decode all but plain WAV in a process that a damaged recording may end."""
    mix: str = "mean"
    """How channels become one: their mean, the loudest, or the first or second of them."""
    resample_quality: str = "HQ"
    """soxr's quality recipe, from QQ (fastest) to VHQ."""
    denoise: str = "none"
    denoise_level: int = 2
    """How much the noise filter takes away: from 0 (nothing) to 4."""
    vad: str = "silero"
    vad_aggressiveness: int = 2
    """WebRTC's voice detector only: 0 (keeps most) to 3 (keeps least)."""
    segment: SegmentConfig = field(default_factory=SegmentConfig)

    def __post_init__(self) -> None:
        _require(self.sample_rate > 0, "sample_rate", self.sample_rate, "a positive rate in Hz")
        _require(self.max_audio_s > 0, "max_audio_s", self.max_audio_s, "a positive number of seconds")
        _require(self.denoise_level in range(5), "denoise_level", self.denoise_level, "from 0 to 4")
        _require(
            self.vad_aggressiveness in range(4), "vad_aggressiveness", self.vad_aggressiveness, "from 0 to 3"
        )
        self._require_possible_limits()
        _one_of("mix", self.mix, MIXES)
        _one_of("resample_quality", self.resample_quality, RESAMPLE_QUALITIES)
        _one_of("denoise", self.denoise, self.DENOISERS)
        _one_of("vad", self.vad, self.VADS)
        self._require_known_rates()

    @property
    def limits(self) -> Limits:
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    def _require_possible_limits(self) -> None:
        _require(self.max_bytes > 0, "max_bytes", self.max_bytes, "a positive number of bytes")
        _require(1 <= self.max_channels <= 64, "max_channels", self.max_channels, "from 1 to 64")
        _require(self.max_decode_s > 0, "max_decode_s", self.max_decode_s, "a positive number of seconds")
        _require(
            0 < self.min_sample_rate <= self.max_sample_rate,
            "min_sample_rate",
            self.min_sample_rate,
            "above 0 and at most frontend.max_sample_rate",
        )

    def _require_known_rates(self) -> None:
        remedy = "set frontend.sample_rate=16000 or switch that stage off"
        if self.sample_rate != 16000 and self.denoise == "webrtc":
            raise UsageError(f"frontend.denoise=webrtc works at 16000 Hz, not {self.sample_rate}: {remedy}")
        if self.sample_rate != 16000 and self.vad == "silero":
            raise UsageError(f"frontend.vad=silero works at 16000 Hz, not {self.sample_rate}: {remedy}")
        if self.sample_rate not in WEBRTC_VAD_RATES and self.vad == "webrtc":
            raise UsageError(
                f"frontend.vad=webrtc works at {WEBRTC_VAD_RATES} Hz, not {self.sample_rate}: {remedy}"
            )


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"frontend.{key}={value} must be {expected}")


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, key, value, f"one of {', '.join(choices)}")
