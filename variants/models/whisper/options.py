"""What a user may ask of a Whisper. No torch: a configuration is composed with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.protocols.options import Positive, Share


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """The defaults are openai-whisper's, but for the language: hearing which costs a step of the decoder."""

    language: str | None = "en"
    """Its code; null: heard in each window (multilingual models)."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """``translate``: into English (multilingual models)."""
    timestamps: bool = True
    """Decode timestamps among the words, by openai-whisper's rules."""
    initial_prompt: str = ""
    """Text that is taken to have come before."""
    max_tokens: Positive = 224
    """Of a window."""
    no_speech_threshold: Share = 0.6
    """A window as likely to be no speech as this has no text, unless its tokens are likely."""
    logprob_threshold: float = -1.0
    """Mean log probability above which tokens are likely."""
    long_form: Literal["packed", "sequential"] = "packed"
    """``packed``: segments of speech fill windows of 30 s; ``sequential``: each window begins where the
    last timestamp was, as openai-whisper reads a whole recording (frontend=whole)."""
    condition_on_previous_text: bool = True
    """``sequential``: the text so far is the prompt of the next window."""

    def no_text(self, no_speech: float, mean_log_probability: float) -> bool:
        """Whether a window is taken to be without speech, by the rule of ``whisper.transcribe``."""
        return no_speech > self.no_speech_threshold and mean_log_probability <= self.logprob_threshold
