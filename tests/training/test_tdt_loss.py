"""The TDT loss sums over exactly the paths of the paper, and its gradient is the sum's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.tdt_loss import tdt_loss

VOCABULARY = 3


def paths(frames: int, labels: int, durations: tuple[int, ...]) -> Iterator[list[tuple[int, int, bool, int]]]:
    """Every path as its arcs ``(t, u, is_label, duration)``, by plain enumeration."""

    def walk(t: int, u: int) -> Iterator[list[tuple[int, int, bool, int]]]:
        if (t, u) == (frames, labels):
            yield []
        if t >= frames:
            return
        for skip in durations:
            if u < labels and t + skip < frames:
                yield from ([(t, u, True, skip), *rest] for rest in walk(t + skip, u + 1))
            if skip >= 1 and t + skip <= frames:
                yield from ([(t, u, False, skip), *rest] for rest in walk(t + skip, u))

    return walk(0, 0)


def brute_force(
    logits: torch.Tensor, target: list[int], frames: int, durations: tuple[int, ...], sigma: float
) -> float:
    tokens = logits[..., : -len(durations)].log_softmax(-1) - sigma
    skips = logits[..., -len(durations) :].log_softmax(-1)
    total = 0.0
    for path in paths(frames, len(target), durations):
        score = 0.0
        for t, u, is_label, skip in path:
            token = target[u] if is_label else VOCABULARY
            score += float(tokens[t, u, token] + skips[t, u, durations.index(skip)])
        total += math.exp(score)
    return -math.log(total) if total else math.inf


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=3),
    st.sampled_from([(0, 1, 2, 3, 4), (0, 1), (1, 2), (0, 2), (0, 1, 6)]),
    st.sampled_from([0.0, 0.05]),
    st.integers(0, 1000),
)
def test_the_loss_is_the_sum_over_all_paths(
    lengths: list[tuple[int, int]], durations: tuple[int, ...], sigma: float, seed: int
) -> None:
    """A batch of utterances of different lengths, padded, against enumeration one by one."""
    torch.manual_seed(seed)
    frames = torch.tensor([length for length, _ in lengths])
    labels = torch.tensor([count for _, count in lengths])
    batch, longest, most = len(lengths), int(frames.max()), int(labels.max())
    logits = torch.randn(batch, longest, most + 1, VOCABULARY + 1 + len(durations), dtype=torch.float64) * 2
    targets = torch.randint(VOCABULARY, (batch, most))
    found = tdt_loss(logits, targets, frames, labels, durations, sigma)
    expected = [
        brute_force(logits[row], targets[row, :count].tolist(), length, durations, sigma)
        for row, (length, count) in enumerate(lengths)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2), (0, 2)])
def test_the_gradient_is_that_of_the_sum(durations: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    frames, labels = torch.tensor([4, 3]), torch.tensor([2, 1])
    targets = torch.tensor([[0, 2], [1, 1]])
    logits = torch.randn(2, 4, 3, VOCABULARY + 1 + len(durations), dtype=torch.float64, requires_grad=True)
    if durations == (0, 2):  # no sum of twos is 3 frames
        frames = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(
        lambda values: tdt_loss(values, targets, frames, labels, durations, 0.05), (logits,)
    )


def test_padding_changes_neither_loss_nor_gradient() -> None:
    torch.manual_seed(2)
    logits = torch.randn(1, 9, 5, VOCABULARY + 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (1, 4))
    frames, labels, durations = torch.tensor([6]), torch.tensor([3]), (0, 1, 2, 3, 4)
    padded = tdt_loss(logits, targets, frames, labels, durations)
    tight = tdt_loss(logits[:, :6, :4], targets[:, :3], frames, labels, durations)
    torch.testing.assert_close(padded, tight)
    (gradient,) = torch.autograd.grad(padded.sum(), logits)
    assert gradient[:, 6:].abs().max() == 0
    assert gradient[:, :, 4:].abs().max() == 0


def test_long_utterances_in_float32_agree_with_float64() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 200, 61, 20 + 1 + 5, dtype=torch.float64) * 3
    targets = torch.randint(20, (2, 60))
    lengths = torch.tensor([200, 150]), torch.tensor([60, 41])
    exact = tdt_loss(logits, targets, *lengths, (0, 1, 2, 3, 4))
    single = tdt_loss(logits.float(), targets, *lengths, (0, 1, 2, 3, 4))
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-3)


def test_an_utterance_that_no_path_explains_has_infinite_loss_and_no_gradient() -> None:
    """Two labels of at least one frame each do not fit before the last blank of two frames."""
    logits = torch.zeros(1, 2, 3, VOCABULARY + 1 + 2, requires_grad=True)
    loss = tdt_loss(logits, torch.tensor([[0, 1]]), torch.tensor([2]), torch.tensor([2]), (1, 2))
    assert loss.item() == math.inf
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(
    ("frames", "labels", "durations", "complaint"),
    [
        (0, 1, (0, 1), "frame lengths"),
        (4, 1, (0, 1), "frame lengths"),
        (3, 3, (0, 1), "target lengths"),
        (3, 1, (1, 0), "durations"),
        (3, 1, (0,), "durations"),
    ],
)
def test_impossible_arguments_are_refused(
    frames: int, labels: int, durations: tuple[int, ...], complaint: str
) -> None:
    logits = torch.zeros(1, 3, 3, VOCABULARY + 1 + len(durations))
    with pytest.raises(ValueError, match=complaint):
        tdt_loss(
            logits,
            torch.zeros(1, 2, dtype=torch.int64),
            torch.tensor([frames]),
            torch.tensor([labels]),
            durations,
        )
