"""A foreign server's answers, held to the set's transcripts: there is no eager reference of its model."""

from __future__ import annotations

import pandas as pd

from harness.measure.stats import Estimate, TooSmall
from harness.measure.wer import corpus_wer
from harness.record import Parity, ParityStatus, Tolerance

_TRANSCRIPTS = "the set's transcripts"


def against_transcripts(served: pd.DataFrame, max_wer: float) -> Parity:
    """``same`` where the upper end of the word error rate's 95 % interval is within ``max_wer``, and
    ``different`` where its lower end is above."""
    spoken = served["reference_text"].notna()
    compared = int(served.loc[spoken, "request_id"].nunique())
    found = corpus_wer(served)
    match None if found is None else found.rate:
        case Estimate() as rate:
            return _judged(rate, compared, max_wer)
        case TooSmall() as small:
            why = f"{small.n} recordings with words are too few for an interval; use {small.needed}"
        case _:
            why = "no recording of the set has a transcript to hold the answers to"
    tolerance = Tolerance("wer", max_wer)
    return Parity(ParityStatus.UNDECIDED, _TRANSCRIPTS, tolerance, compared, 0, why)


def _judged(rate: Estimate, compared: int, max_wer: float) -> Parity:
    status = ParityStatus.UNDECIDED
    if rate.high <= max_wer:
        status = ParityStatus.SAME
    elif rate.low > max_wer:
        status = ParityStatus.DIFFERENT
    message = f"WER {rate.value:.2%} [{rate.low:.2%}, {rate.high:.2%}], target.max_wer is {max_wer:.2%}"
    if status is ParityStatus.UNDECIDED:
        message += "; the interval straddles it: use more recordings"
    return Parity(
        status,
        _TRANSCRIPTS,
        Tolerance("wer", max_wer),
        compared,
        differing=0,
        message=message,
        wer_difference=rate.value,
        wer_difference_low=rate.low,
        wer_difference_high=rate.high,
    )
