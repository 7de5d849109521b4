"""What a recording's container says of its sound, for decoders that would take less without a word.

libsndfile and what is behind it skip what they cannot read, and end early without an error. So a
recording goes to them only where every byte of its container is accounted for, and what they give is
counted. All else, damage above all, is FFmpeg's affair.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """The sound of a recording whose container holds nothing unusual."""

    channels: int
    sample_rate: int
    samples: int
    """Of each channel, after the encoder's delay and padding were removed."""


class Unsuited(Exception):
    """Why a recording is left to FFmpeg, or to it after all: one of few phrases, to be counted."""
