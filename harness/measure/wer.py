"""Word error rates with their insertions, deletions and substitutions, and parity of outputs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from harness.measure.stats import MINIMUM_FOR_RATIO, Estimate, Floats, Measured, Resampled, TooSmall
from harness.record import Parity, ParityStatus, Tolerance

_APOSTROPHES = "\u2018\u2019\u201b\u02bc\u02bb\u2032\u05f3\u00b4`"
"""Typed for the same sound: quotation marks, modifier letters, prime, geresh, accents of their own."""
_TYPED = str.maketrans({**dict.fromkeys(_APOSTROPHES, "'"), "\u200b": " "})
_LONE_APOSTROPHE = re.compile(r"(?<![^\s'])'|'(?![^\s'])")
_SELECTOR = re.compile("[\u034f\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks that choose a glyph (Unicode's default ignorables): no part of how a word is spelled."""


def normalize(text: str) -> str:
    """Words alone, in one spelling each: compatibility forms and case folded, then composed again (NFKC),
    no punctuation but apostrophes inside words, no invisible characters (soft hyphens, joiners).

    A combining mark belongs to the letter before it. Numbers stay as they are written: spell references
    the way the model spells.
    """
    words = "".join(_words_only(_folded(text)))
    return " ".join(_LONE_APOSTROPHE.sub(" ", words).split())


def _folded(text: str) -> str:
    typed = _SELECTOR.sub("", text).translate(_TYPED)
    visible = "".join(c for c in typed if unicodedata.category(c) != "Cf")
    folded = unicodedata.normalize("NFKC", visible).casefold()
    one_dot = folded.replace("i\u0307", "i")  # what folding makes of the Turkish capital
    return unicodedata.normalize("NFKC", one_dot).translate(_TYPED)


def _words_only(text: str) -> Iterator[str]:
    """Letters, numbers, the marks on them, and apostrophes; a space for anything else.

    ``\\w`` of Python's expressions leaves marks out, and would cut Hindi at every vowel sign.
    """
    inside = False
    for character in text:
        kind = unicodedata.category(character)[0]
        inside = kind in "LN" or (kind == "M" and inside)
        yield character if inside or character == "'" else " "


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Edits that turn the reference into the hypothesis; ``words`` counts the reference's."""

    insertions: int
    deletions: int
    substitutions: int
    words: int

    @property
    def total(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.words + other.words,
        )


NO_ERRORS = WordErrors(0, 0, 0, 0)


def count_errors(reference: str, hypothesis: str) -> WordErrors:
    """The fewest word edits between two texts, normalized."""
    expected, heard = normalize(reference).split(), normalize(hypothesis).split()
    kinds = [edit.tag for edit in Levenshtein.editops(expected, heard)]
    return WordErrors(kinds.count("insert"), kinds.count("delete"), kinds.count("replace"), len(expected))


@dataclass(frozen=True, slots=True)
class WerResult:
    """Corpus word error rate: all edits over all reference words, with its interval over utterances.

    ``point`` is there even where ``rate`` is too small a sample for an interval.
    """

    rate: Measured
    errors: WordErrors
    utterances: int

    @property
    def point(self) -> float | None:
        return self.errors.total / self.errors.words if self.errors.words else None


def corpus_wer(samples: pd.DataFrame) -> WerResult | None:
    """The WER of measured samples that have a reference; ``None`` where none has.

    Repetitions of one recording are one utterance: its errors and words are summed, so that ten
    repetitions do not pass for ten recordings.
    """
    per_utterance = _by_utterance(samples)
    errors = sum(per_utterance.values(), NO_ERRORS)
    if errors.words == 0:
        return None
    totals, words = _arrays(per_utterance.values())
    return WerResult(_resample(len(words)).ratio(totals, words), errors, len(per_utterance))


def compare_outputs(
    reference: pd.DataFrame, candidate: pd.DataFrame, tolerance: Tolerance, reference_name: str
) -> Parity:
    """Whether ``candidate`` answers like ``reference``: rows of ``samples``, joined by request id.

    ``exact``: every recording has the same tokens (the same text where neither has tokens) in
    every repetition. ``wer``: the candidate's WER exceeds the reference's by at most
    ``max_wer_difference``, upper end of the 95 % interval, resampled over the same recordings;
    recordings without a transcript are held to the reference's text.
    """
    ours, theirs = _outputs(candidate), _outputs(reference)
    shared = [request for request in theirs if request in ours]
    differing = [request for request in shared if ours[request] != theirs[request]]
    missing = len(theirs) - len(shared)
    judge = _judge_wer if tolerance.kind == "wer" else _judge_exact
    if not shared:
        return _parity(
            ParityStatus.UNDECIDED, tolerance, reference_name, 0, 0, "no recording is in both runs"
        )
    if missing:
        message = f"{missing} of {len(theirs)} recordings of the reference got no answer"
        return _parity(
            ParityStatus.DIFFERENT, tolerance, reference_name, len(shared), len(differing), message
        )
    if not differing:
        message = f"all {len(shared)} recordings have the reference's output"
        return _parity(ParityStatus.SAME, tolerance, reference_name, len(shared), 0, message)
    return judge(reference, candidate, tolerance, reference_name, len(shared), differing)


def _parity(
    status: ParityStatus,
    tolerance: Tolerance,
    name: str,
    compared: int,
    differing: int,
    message: str,
    difference: tuple[float, float, float] | None = None,
) -> Parity:
    value, low, high = difference or (None, None, None)
    return Parity(status, name, tolerance, compared, differing, message, value, low, high)


def _judge_exact(
    reference: pd.DataFrame,
    candidate: pd.DataFrame,
    tolerance: Tolerance,
    name: str,
    compared: int,
    differing: list[str],
) -> Parity:
    del reference, candidate
    message = (
        f"{len(differing)} of {compared} recordings have other tokens than {name} "
        f"(first: {differing[0]}); the variant declares itself exact"
    )
    return _parity(ParityStatus.DIFFERENT, tolerance, name, compared, len(differing), message)


def _judge_wer(
    reference: pd.DataFrame,
    candidate: pd.DataFrame,
    tolerance: Tolerance,
    name: str,
    compared: int,
    differing: list[str],
) -> Parity:
    limit = tolerance.max_wer_difference or 0.0
    expected = _expected_texts(reference)
    difference = wer_difference(_against(reference, expected), _against(candidate, expected))
    if isinstance(difference, TooSmall):
        message = f"{difference.n} recordings with words are too few for an interval; use {difference.needed}"
        return _parity(ParityStatus.UNDECIDED, tolerance, name, compared, len(differing), message)
    status = _wer_status(difference, limit)
    bounds = f"[{difference.low:+.2%}, {difference.high:+.2%}]"
    message = f"WER differs from {name} by {difference.value:+.2%} {bounds}, allowed {limit:+.2%}"
    if status is ParityStatus.UNDECIDED:
        message += "; the interval straddles the limit: use more recordings"
    figures = (difference.value, difference.low, difference.high)
    return _parity(status, tolerance, name, compared, len(differing), message, figures)


def _wer_status(difference: Estimate, limit: float) -> ParityStatus:
    if difference.high <= limit:
        return ParityStatus.SAME
    return ParityStatus.DIFFERENT if difference.low > limit else ParityStatus.UNDECIDED


def wer_difference(before: Mapping[str, WordErrors], after: Mapping[str, WordErrors]) -> Measured:
    """WER of ``after`` minus WER of ``before`` with its interval, paired by recording."""
    shared = sorted(before.keys() & after.keys())
    spoken = [request for request in shared if before[request].words and after[request].words]
    if len(spoken) < MINIMUM_FOR_RATIO:
        return TooSmall(len(spoken), MINIMUM_FOR_RATIO)
    old, old_words = _arrays(before[request] for request in shared)
    new, new_words = _arrays(after[request] for request in shared)
    return _resample(len(shared)).difference(new, new_words, old, old_words)


def utterance_errors(samples: pd.DataFrame) -> Mapping[str, WordErrors]:
    """Errors of each recording that has a transcript, repetitions summed."""
    return _by_utterance(samples)


def _by_utterance(samples: pd.DataFrame) -> dict[str, WordErrors]:
    rows = samples[samples["reference_text"].notna()]
    expected = {str(r): str(t) for r, t in zip(rows["request_id"], rows["reference_text"], strict=True)}
    return _against(rows, expected)


def _against(samples: pd.DataFrame, expected: Mapping[str, str]) -> dict[str, WordErrors]:
    errors: dict[str, WordErrors] = {}
    seen: dict[tuple[str, str], WordErrors] = {}  # repetitions mostly say the same: count edits once
    for request, text in zip(samples["request_id"], samples["text"], strict=True):
        if request not in expected:
            continue
        if (request, text) not in seen:
            seen[request, text] = count_errors(expected[request], text)
        errors[request] = errors.get(request, NO_ERRORS) + seen[request, text]
    return errors


def _expected_texts(reference: pd.DataFrame) -> dict[str, str]:
    """The transcript of each recording, or what the reference heard where it has none."""
    texts = reference["reference_text"].where(reference["reference_text"].notna(), reference["text"])
    return {str(r): str(t) for r, t in zip(reference["request_id"], texts, strict=True)}


def _outputs(samples: pd.DataFrame) -> dict[str, frozenset[tuple[object, ...]]]:
    """Every distinct output of each recording: one element where it is deterministic."""
    found: dict[str, set[tuple[object, ...]]] = {}
    columns = (samples["request_id"], samples["token_ids"], samples["text"])
    for request, tokens, text in zip(*columns, strict=True):
        output = tuple(int(t) for t in tokens) if tokens is not None and len(tokens) else (str(text),)
        found.setdefault(str(request), set()).add(output)
    return {request: frozenset(outputs) for request, outputs in found.items()}


def _arrays(errors: Iterable[WordErrors]) -> tuple[Floats, Floats]:
    counted = list(errors)
    totals = np.array([e.total for e in counted], dtype=np.float64)
    return totals, np.array([e.words for e in counted], dtype=np.float64)


def _resample(utterances: int) -> Resampled:
    return Resampled.of(np.zeros(utterances, dtype=np.int64))
