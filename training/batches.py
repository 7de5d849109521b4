"""Clips to training items and batches: single sentences, and several in a row as a turn of speech."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from harness.errors import UsageError
from training.data import MARGIN_S, SAMPLE_RATE, Corpus

#: Batches have these widths in seconds and no others, so that each shape can be captured once.
WIDTHS_S = (1.7, 2.1, 2.6, 3.1, 3.7, 4.4, 5.4, 7.0, 9.5, 13.0, 19.5)

_SINGLE_SHARE = 0.6
_PAIR_SHARE = 0.25  # two or three sentences; the rest fills a long turn
_LONG_S = (6.0, 18.0)
_PAUSE_S = (0.0, 0.6)
_EDGE_S = (-0.13, 0.4)  # from cutting 30 ms of speech away to half a second of silence before it
_EMPTY_SHARE = 0.01
_EMPTY_S = (0.4, 3.0)


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance: clips in order, the samples of silence before each, and after the last."""

    clips: tuple[int, ...]
    silences: tuple[int, ...]
    """One more than clips. Negative values cut into a clip's margin."""
    samples: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Waveforms float32 ``[B, n]`` on the device, lengths in samples ``[B]`` on the host, and what each
    row says: its clips in order."""

    samples: torch.Tensor
    lengths: torch.Tensor
    clips: list[tuple[int, ...]]


def rows_of(width_s: float, batch_s: float) -> int:
    """Rows of a batch that is ``width_s`` wide and holds ``batch_s`` seconds, padding included."""
    return max(1, int(batch_s / width_s))


class Batches:
    """An endless, seeded stream of batches of ``batch_s`` seconds; the speech lies on ``device``.

    An item waits until as many items of its width are there as fill a batch.
    """

    def __init__(self, corpus: Corpus, batch_s: float, device: torch.device, seed: int) -> None:
        self._corpus = corpus
        self._batch_s = batch_s
        self._audio = torch.from_numpy(np.array(corpus.audio)).to(device)
        self._rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Batch]:
        waiting: defaultdict[float, list[Item]] = defaultdict(list)
        while True:
            order = self._rng.permutation(len(self._corpus.lengths))
            for item in plan_items(order, self._corpus.lengths, self._rng):
                width_s = width_for(item.samples)
                waiting[width_s].append(item)
                if len(waiting[width_s]) == rows_of(width_s, self._batch_s):
                    yield self._assembled(waiting.pop(width_s), round(width_s * SAMPLE_RATE))

    def _assembled(self, items: list[Item], width: int) -> Batch:
        moves = [move for row, item in enumerate(items) for move in self._moves(item, row * width)]
        samples = torch.zeros(len(items) * width, device=self._audio.device)
        if moves:
            _copy_runs(self._audio, samples, torch.tensor(moves))
        lengths = torch.tensor([item.samples for item in items])
        return Batch(samples.view(len(items), width), lengths, [item.clips for item in items])

    def _moves(self, item: Item, target: int) -> Iterator[tuple[int, int, int]]:
        """(source, target, length) of each clip, cut where the silence before or after is negative."""
        for clip, (before, after) in zip(item.clips, pairwise(item.silences), strict=True):
            start, length = int(self._corpus.offsets[clip]), int(self._corpus.lengths[clip])
            cut_before, cut_after = max(0, -before), max(0, -after)
            target += max(0, before)
            length -= cut_before + cut_after
            yield start + cut_before, target, length
            target += length


def width_for(samples: int) -> float:
    """The narrowest width that holds ``samples``. Raises ``UsageError`` above the widest."""
    seconds = samples / SAMPLE_RATE
    if seconds > WIDTHS_S[-1]:
        raise UsageError(
            f"a training item lasts {seconds:.1f} s, above {WIDTHS_S[-1]} s: shorten the sentences"
        )
    return WIDTHS_S[bisect_left(WIDTHS_S, seconds)]


def _copy_runs(source: torch.Tensor, target: torch.Tensor, moves: torch.Tensor) -> None:
    """Copy runs of int16 samples as floats in [-1, 1]: one launch for all of them, no wait.

    ``moves`` is int64 ``[runs, 3]`` on the host: start in ``source``, start in ``target``, length.
    """
    total = int(moves[:, 2].sum())
    starts, targets, lengths = moves.to(source.device, non_blocking=True).T
    runs = torch.arange(len(moves), device=source.device)
    run = torch.repeat_interleave(runs, lengths, output_size=total)
    within = torch.arange(total, device=source.device) - (lengths.cumsum(0) - lengths)[run]
    target[targets[run] + within] = source[starts[run] + within].float() / 32768.0


def plan_items(order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Iterator[Item]:
    """Every clip of ``order`` once, alone or in a row with the next ones, and a few items of silence."""
    first = 0
    while first < len(order):
        count = _turn_clips(lengths[order[first : first + 40]], rng)
        yield _turn(order[first : first + count].tolist(), lengths, rng)
        first += count
        if rng.random() < _EMPTY_SHARE:
            samples = round(rng.uniform(*_EMPTY_S) * SAMPLE_RATE)
            yield Item((), (samples,), samples)


def _turn_clips(ahead: np.ndarray, rng: np.random.Generator) -> int:
    """How many of the next clips, whose lengths are ``ahead``, make a turn."""
    draw = rng.random()
    if draw < _SINGLE_SHARE:
        return 1
    with_pauses = np.cumsum(ahead + round((_PAUSE_S[1] - 2 * MARGIN_S) * SAMPLE_RATE))
    fitting = int(np.searchsorted(with_pauses, rng.uniform(*_LONG_S) * SAMPLE_RATE))
    most = int(rng.integers(2, 4)) if draw < _SINGLE_SHARE + _PAIR_SHARE else fitting
    return max(1, min(fitting, most))


def _turn(clips: list[int], lengths: np.ndarray, rng: np.random.Generator) -> Item:
    pauses = rng.uniform(*_PAUSE_S, len(clips) - 1) - 2 * MARGIN_S  # margins are silence already
    edges = rng.uniform(*_EDGE_S, 2)
    silences_s = [edges[0], *np.maximum(pauses, 0.0), edges[1]]
    silences = tuple(round(float(silence) * SAMPLE_RATE) for silence in silences_s)
    return Item(tuple(clips), silences, sum(silences) + int(lengths[clips].sum()))
