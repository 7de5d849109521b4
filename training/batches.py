"""Clips to training items and batches: single sentences, and several in a row as a turn of speech."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from training.data import MARGIN_S, SAMPLE_RATE, Corpus

_SINGLE_SHARE = 0.6
_PAIR_SHARE = 0.25  # two or three sentences; the rest fills a long turn
_LONG_S = (6.0, 18.0)
_PAUSE_S = (0.0, 0.6)
_EDGE_S = (-0.13, 0.4)  # from cutting 30 ms of speech away to half a second of silence before it
_EMPTY_SHARE = 0.01
_EMPTY_S = (0.4, 3.0)
_MAX_ITEMS = 512
_POOL = 64  # batches that are sorted by length together


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance: clips in order, the samples of silence before each, and after the last."""

    clips: tuple[int, ...]
    silences: tuple[int, ...]
    """One more than clips. Negative values cut into a clip's margin."""
    samples: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Waveforms float32 ``[B, n]`` on the device, lengths in samples ``[B]`` on the host, and texts."""

    samples: torch.Tensor
    lengths: torch.Tensor
    texts: list[str]


class Batches:
    """An endless, seeded stream of batches of about ``batch_s`` seconds; the speech lies on ``device``."""

    def __init__(self, corpus: Corpus, batch_s: float, device: torch.device, seed: int) -> None:
        self._corpus = corpus
        self._batch_samples = round(batch_s * SAMPLE_RATE)
        self._audio = torch.from_numpy(np.array(corpus.audio)).to(device)
        self._rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            order = self._rng.permutation(len(self._corpus.lengths))
            for items in self._grouped(plan_items(order, self._corpus.lengths, self._rng)):
                yield self._assembled(items)

    def _grouped(self, items: list[Item]) -> Iterator[list[Item]]:
        """Items of like length together, in random order of batches."""
        mean = sum(item.samples for item in items) / len(items)
        pool = max(1, round(_POOL * self._batch_samples / mean))
        for start in range(0, len(items), pool):
            batches = list(self._cut(sorted(items[start : start + pool], key=lambda item: item.samples)))
            for index in self._rng.permutation(len(batches)):
                yield batches[index]

    def _cut(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        for item in items:
            if batch and (len(batch) == _MAX_ITEMS or (len(batch) + 1) * item.samples > self._batch_samples):
                yield batch
                batch = []
            batch.append(item)
        yield batch

    def _assembled(self, items: list[Item]) -> Batch:
        width = max(item.samples for item in items)
        moves = [move for row, item in enumerate(items) for move in self._moves(item, row * width)]
        samples = torch.zeros(len(items) * width, device=self._audio.device)
        if moves:
            _copy_runs(self._audio, samples, torch.tensor(moves))
        lengths = torch.tensor([item.samples for item in items])
        texts = [" ".join(self._corpus.texts[clip] for clip in item.clips) for item in items]
        return Batch(samples.view(len(items), width), lengths, texts)

    def _moves(self, item: Item, target: int) -> Iterator[tuple[int, int, int]]:
        """(source, target, length) of each clip, cut where the silence before or after is negative."""
        for clip, (before, after) in zip(item.clips, pairwise(item.silences), strict=True):
            start, length = int(self._corpus.offsets[clip]), int(self._corpus.lengths[clip])
            cut_before, cut_after = max(0, -before), max(0, -after)
            target += max(0, before)
            length -= cut_before + cut_after
            yield start + cut_before, target, length
            target += length


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


def plan_items(order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> list[Item]:
    """Every clip of ``order`` once, alone or in a row with the next ones, and a few items of silence."""
    clips = iter(order.tolist())
    items = []
    for first in clips:
        items.append(_turn([first, *_followers(int(lengths[first]), clips, lengths, rng)], lengths, rng))
        if rng.random() < _EMPTY_SHARE:
            samples = round(rng.uniform(*_EMPTY_S) * SAMPLE_RATE)
            items.append(Item((), (samples,), samples))
    return items


def _followers(
    total: int, clips: Iterator[int], lengths: np.ndarray, rng: np.random.Generator
) -> Iterator[int]:
    draw = rng.random()
    longest = round(rng.uniform(*_LONG_S) * SAMPLE_RATE)
    most = 0 if draw < _SINGLE_SHARE else 2 if draw < _SINGLE_SHARE + _PAIR_SHARE else len(lengths)
    for _ in range(most):
        if total >= longest or (clip := next(clips, None)) is None:
            return
        total += int(lengths[clip])
        yield clip


def _turn(clips: list[int], lengths: np.ndarray, rng: np.random.Generator) -> Item:
    pauses = rng.uniform(*_PAUSE_S, len(clips) - 1) - 2 * MARGIN_S  # margins are silence already
    edges = rng.uniform(*_EDGE_S, 2)
    silences_s = [edges[0], *np.maximum(pauses, 0.0), edges[1]]
    silences = tuple(round(float(silence) * SAMPLE_RATE) for silence in silences_s)
    return Item(tuple(clips), silences, sum(silences) + int(lengths[clips].sum()))
