"""One recording: sentences and pauses that fill a length to the sample, in a room, in noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr

from harness.corpus.grammar import Grammar
from harness.corpus.noise import gain, mix, reverberate
from harness.corpus.speech import MAX_SPEED_WPM, VOICES, Voice, speak
from harness.errors import UsageError
from harness.protocols import Audio

_SILENCE_BELOW_PEAK = 1e-3
_SHORTEST_GAP_S = 0.12
_SENTENCES_TRIED = 6
_WORTH_A_BEGINNING_S = 1.0
#: Measured over sentences of the grammar at espeak-ng's usual speed.
_LETTERS_PER_SECOND = 18.0
_USUAL_SPEED_WPM = 175
_WORDS_TRIED = 6
_SHORT_WORD_LETTERS = range(2, 6)
_CHANNEL_DIFFERENCE_DB = 6.0
#: Gaps are drawn from a Dirichlet distribution of this concentration: below 1, a few are long.
_GAP_CONCENTRATION = 0.7


@dataclass(frozen=True, slots=True)
class Script:
    """What one recording is to be, before a sound is made.

    ``speech_ratio`` is a target; the length is kept to the sample. ``snr_db`` and ``rt60_s`` may be
    None: no noise, no room.
    """

    length_s: float
    sample_rate: int
    channels: int
    speech_ratio: float
    snr_db: float | None
    rt60_s: float | None
    voices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """``audio`` is ``[n]``, or ``[channels, n]``; ``text`` is exactly what is spoken in it."""

    audio: Audio
    text: str
    speech_s: float


@dataclass(frozen=True, slots=True)
class _Utterance:
    text: str
    samples: np.ndarray  # float32 [n], silence trimmed


def record(script: Script, grammar: Grammar, rng: np.random.Generator) -> Recording:
    """Speak sentences of ``grammar`` by turns until ``script`` is fulfilled.

    No word is ever cut: a sentence that does not fit loses words from its end, and a recording too
    short for its voice is spoken faster. Raises ``UsageError`` for a length that holds no word.
    """
    utterances = list(_utterances(script, grammar, rng)) or [_one_word(script, grammar, rng)]
    speech = _place(utterances, script, rng)
    return Recording(
        audio=_in_the_room(speech, script, rng),
        text=" ".join(utterance.text for utterance in utterances),
        speech_s=sum(len(utterance.samples) for utterance in utterances) / script.sample_rate,
    )


def _utterances(script: Script, grammar: Grammar, rng: np.random.Generator) -> Iterator[_Utterance]:
    """Sentences until the speech that the script allows is used up, each voice in its turn.

    Whole sentences while any fits, then the beginning of one where that leaves much unsaid.
    """
    left_s = script.length_s * script.speech_ratio
    spare_s = script.length_s - left_s
    for turn in itertools.count():
        voice = VOICES[script.voices[turn % len(script.voices)]]
        utterance = _next(grammar, voice, script.sample_rate, left_s, turn > 0, rng)
        if utterance is None:
            return
        yield utterance
        # Pauses between sentences come out of the silence first, then out of the speech.
        gap_s = max(0.0, _SHORTEST_GAP_S - spare_s)
        spare_s = max(0.0, spare_s - _SHORTEST_GAP_S)
        left_s -= len(utterance.samples) / script.sample_rate + gap_s


def _next(
    grammar: Grammar,
    voice: Voice,
    sample_rate: int,
    limit_s: float,
    has_spoken: bool,
    rng: np.random.Generator,
) -> _Utterance | None:
    """A sentence that fits ``limit_s``, else the beginning of one, else None."""
    sentences = [grammar.sentence(rng) for _ in range(_SENTENCES_TRIED)]
    if not _promising(sentences, voice, limit_s):  # little room is left: look harder for a short one
        sentences += [grammar.sentence(rng) for _ in range(10 * _SENTENCES_TRIED)]
    for sentence in _promising(sentences, voice, limit_s)[:_SENTENCES_TRIED]:
        utterance = _say(sentence, voice, sample_rate)
        if len(utterance.samples) <= limit_s * sample_rate:
            return utterance
    if has_spoken and limit_s < _WORTH_A_BEGINNING_S:
        return None
    return _beginning(sentences[0], voice, sample_rate, limit_s)


def _promising(sentences: list[str], voice: Voice, limit_s: float) -> list[str]:
    """Sentences that may fit: as they come while there is room for any, the longest first at the end."""
    fitting = [sentence for sentence in sentences if _estimate_s(sentence, voice) <= limit_s]
    return fitting if len(fitting) == len(sentences) else sorted(fitting, key=len, reverse=True)


def _beginning(sentence: str, voice: Voice, sample_rate: int, limit_s: float) -> _Utterance | None:
    """As many of the sentence's first words as can be said in ``limit_s``; None where not one can."""
    words = sentence.split()
    while len(words) > 1 and _estimate_s(" ".join(words), voice) > limit_s:
        words.pop()
    while words and limit_s > 0:
        utterance = _say(" ".join(words), voice, sample_rate)
        if len(utterance.samples) <= limit_s * sample_rate:
            return utterance
        words.pop()
    return None


def _estimate_s(text: str, voice: Voice) -> float:
    """Roughly how long ``voice`` takes to say ``text``, without a word said."""
    return len(text) / _LETTERS_PER_SECOND * (_USUAL_SPEED_WPM / voice.speed_wpm)


def _one_word(script: Script, grammar: Grammar, rng: np.random.Generator) -> _Utterance:
    """A short word, said as fast as it takes to fit the whole length."""
    words = _short_words(grammar, rng)
    voice = VOICES[script.voices[0]]
    while True:
        for word in words:
            if utterance := _beginning(word, voice, script.sample_rate, script.length_s):
                return utterance
        if voice.speed_wpm == MAX_SPEED_WPM:
            raise UsageError(
                f"{script.length_s:g} s is too short for a word of {script.voices[0]}: raise min_s"
            )
        voice = replace(voice, speed_wpm=min(MAX_SPEED_WPM, voice.speed_wpm * 5 // 4))


def _short_words(grammar: Grammar, rng: np.random.Generator) -> list[str]:
    """A few random short words that the grammar knows, in random order."""
    words = sorted(grammar.words(), key=lambda word: (len(word), word))
    short = [word for word in words if len(word) in _SHORT_WORD_LETTERS] or words[:_WORDS_TRIED]
    return [short[index] for index in rng.permutation(len(short))[:_WORDS_TRIED]]


def _say(text: str, voice: Voice, sample_rate: int) -> _Utterance:
    audio = speak(text, voice)
    samples = soxr.resample(_trim(audio.samples), audio.sample_rate, sample_rate, quality="HQ")
    return _Utterance(text, np.asarray(samples, np.float32))


def _trim(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends (60 dB below the peak)."""
    magnitude = np.abs(samples)
    loud = np.flatnonzero(magnitude > _SILENCE_BELOW_PEAK * magnitude.max(initial=0.0))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def _place(utterances: Sequence[_Utterance], script: Script, rng: np.random.Generator) -> Audio:
    """The utterances in order, the silence between, before and after them shared out at random."""
    length = round(script.length_s * script.sample_rate)
    silence = length - sum(len(utterance.samples) for utterance in utterances)
    inner = len(utterances) - 1
    shortest = min(round(_SHORTEST_GAP_S * script.sample_rate), silence // inner) if inner else 0
    gaps = _shares(silence - inner * shortest, len(utterances) + 1, rng)
    gaps[1:-1] += shortest
    samples = np.zeros(length, np.float32)
    position = 0
    for gap, utterance in zip(gaps, utterances, strict=False):
        position += int(gap)
        samples[position : position + len(utterance.samples)] = utterance.samples
        position += len(utterance.samples)
    return Audio(samples, script.sample_rate)


def _shares(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` in ``parts`` random whole parts, int64 ``[parts]``."""
    cuts = np.cumsum(rng.dirichlet(np.full(parts, _GAP_CONCENTRATION)))[:-1]
    edges = np.concatenate([[0], np.floor(cuts * total), [total]]).astype(np.int64)
    return np.diff(edges)


def _in_the_room(speech: Audio, script: Script, rng: np.random.Generator) -> Audio:
    """Reverberation, then noise: one microphone, or two at different distances."""
    wet = speech if script.rt60_s is None else reverberate(speech, script.rt60_s, rng)
    if script.channels == 1:
        return _heard(wet, script.snr_db, rng)
    farther = gain(wet, -_CHANNEL_DIFFERENCE_DB * rng.random())
    planes = [_heard(channel, script.snr_db, rng).samples for channel in (wet, farther)]
    return Audio(np.stack(planes), speech.sample_rate)


def _heard(audio: Audio, snr_db: float | None, rng: np.random.Generator) -> Audio:
    return gain(audio if snr_db is None else mix(audio, snr_db, rng), 0.0)
