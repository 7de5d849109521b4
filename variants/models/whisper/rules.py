"""Which tokens greedy search may choose: openai-whisper's rules, as numbers of a vocabulary.

The rules are those of ``whisper.decoding`` (``SuppressBlank``, ``SuppressTokens``,
``ApplyTimestampRules``) at temperature 0; ``variants.decoder.attention.choice`` applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from variants.models.whisper.architecture import WhisperArchitecture, openai_whisper
from variants.models.whisper.options import WhisperOptions

TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 20 ms, the last ids of every vocabulary
FIRST_TIMESTAMPS = 50  # 1 s


@dataclass(frozen=True, slots=True)
class GreedyRules:
    """Token ids, and the sequence that every window begins with."""

    start: tuple[int, ...]
    """Start of transcript, language, task, and whether there are timestamps."""
    before: tuple[int, ...]
    """Of the initial prompt's text."""
    previous: int
    """Says that what follows came before."""
    end: int
    no_speech: int
    suppressed: tuple[int, ...]
    """At every step."""
    suppressed_first: tuple[int, ...]
    """And at the first."""
    languages: tuple[int, ...]
    """To choose from where the language is not given; empty where it is."""
    timestamp_begin: int
    last_first_timestamp: int
    """The first token is a timestamp of at most this."""
    timestamps: bool
    max_tokens: int
    context: int
    """Positions of the decoder: prompt and tokens together."""

    def prompt(self, previous: Sequence[int] = ()) -> tuple[int, ...]:
        """What a window begins with after the text ``previous``, of which the last half context counts."""
        if not previous:
            return self.start
        return (self.previous, *previous[-(self.context // 2 - 1) :], *self.start)

    def room(self, prompt: int) -> int:
        """Tokens that may follow a prompt of so many: the last needs no position, nothing comes after it."""
        return min(self.max_tokens, self.context + 1 - prompt)


class WhisperTokenizer:
    """openai-whisper's vocabulary for one size of model, language and task."""

    def __init__(self, size: WhisperArchitecture, options: WhisperOptions) -> None:
        """Raises ``UsageError`` for a language or task that this model does not know."""
        multilingual = size.n_vocab >= 51_865
        _check(options, multilingual)
        module = openai_whisper("tokenizer")
        try:
            self._inner: Any = module.get_tokenizer(
                multilingual,
                num_languages=size.n_vocab - 51_765 - int(multilingual),
                language=options.language or "en",
                task=options.task,
            )
        except ValueError as error:
            raise UsageError(f"model.options.language={options.language}: {error}") from error

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without timestamps."""
        return str(self._inner.decode(list(tokens))).strip()

    def rules(self, size: WhisperArchitecture, options: WhisperOptions) -> GreedyRules:
        inner = self._inner
        heard = options.language is None
        text = options.initial_prompt.strip()
        return GreedyRules(
            start=tuple(
                inner.sot_sequence if options.timestamps else inner.sot_sequence_including_notimestamps
            ),
            before=tuple(inner.encode(f" {text}")) if text else (),
            previous=inner.sot_prev,
            end=inner.eot,
            no_speech=inner.no_speech,
            suppressed=tuple(sorted({*inner.non_speech_tokens, *self._control(options)})),
            suppressed_first=(*inner.encode(" "), inner.eot),
            languages=tuple(sorted(inner.all_language_tokens)) if heard else (),
            timestamp_begin=size.n_vocab - TIMESTAMPS,
            last_first_timestamp=size.n_vocab - TIMESTAMPS + FIRST_TIMESTAMPS,
            timestamps=options.timestamps,
            max_tokens=options.max_tokens,
            context=size.n_text_ctx,
        )

    def _control(self, options: WhisperOptions) -> set[int]:
        """What structures a prompt and is never said."""
        inner = self._inner
        always = {inner.transcribe, inner.translate, inner.sot, inner.sot_prev, inner.sot_lm, inner.no_speech}
        return always | ({inner.no_timestamps} if options.timestamps else set())


def end_of_text(size: WhisperArchitecture) -> int:
    """The id of the end of text: the first after the words, of which English alone has 50,256."""
    return 50_257 if size.n_vocab >= 51_865 else 50_256


def _check(options: WhisperOptions, multilingual: bool) -> None:
    if multilingual:
        return
    for key, value, only in (("language", options.language, "en"), ("task", options.task, "transcribe")):
        if value != only:
            raise UsageError(f"model.options.{key}={value}: this model knows English alone; use {key}={only}")
