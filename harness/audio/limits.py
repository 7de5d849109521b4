"""What a recording may ask of the machine that decodes it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import RequestError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is decoded; each is the option of the front end with the same name.

    ``RequestError`` names the option of whichever is passed, as soon as that is known.
    """

    max_audio_s: float = 7200.0
    max_bytes: int = 2**31
    """Of the container as it arrives."""
    max_channels: int = 64
    min_sample_rate: int = 4000
    """In Hz. A few kilobytes at 1 Hz last for hours, and cost as much at the model's rate."""
    max_sample_rate: int = 384_000
    max_decode_s: float = 60.0
    """Of decoding one recording, after which its decoder's process is ended."""

    def check_bytes(self, count: int) -> None:
        if count > self.max_bytes:
            raise RequestError(
                f"the payload has {count} bytes, above frontend.max_bytes={self.max_bytes}: "
                "compress it, split it or raise that limit"
            )

    def check_format(self, channels: int, sample_rate: int) -> None:
        if channels > self.max_channels:
            raise RequestError(
                f"the recording has {channels} channels, above frontend.max_channels={self.max_channels}: "
                "mix it down or raise that limit"
            )
        if not self.min_sample_rate <= sample_rate <= self.max_sample_rate:
            raise RequestError(
                f"the recording has {sample_rate} samples a second, outside "
                f"frontend.min_sample_rate={self.min_sample_rate} to "
                f"frontend.max_sample_rate={self.max_sample_rate}: resample it or change those limits"
            )

    def check_length(self, duration_s: float) -> None:
        if duration_s > self.max_audio_s:
            raise RequestError(
                f"the recording lasts {duration_s:.0f} s or more, above "
                f"frontend.max_audio_s={self.max_audio_s:g}: split it or raise that limit"
            )
