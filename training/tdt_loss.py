"""The loss of a token-and-duration transducer (Xu et al. 2023, arXiv:2304.06795), in PyTorch alone.

The lattice has a node ``(t, u)`` for every frame and number of labels emitted, ``0 <= t <= T`` and
``0 <= u <= U``. From a node, a label arc leads to ``(t + d, u + 1)`` and a blank arc to ``(t + d, u)``,
for every duration ``d``; a blank's is at least 1. An arc's weight is the log probability of its token
plus that of its duration. The loss is the negative log of the sum over all paths from ``(0, 0)`` to
``(T, U)``; only a blank may land on ``T``, as in the paper.

Forward scores and backward scores are one recursion over time: the backward lattice is the forward
lattice of the utterance turned round, so both run as one batch of ``2 B``. Within a frame, arcs of
duration 0 form a chain in ``u``, which a cumulative log-sum-exp solves for all ``u`` at once. The
gradient of the log sum with respect to an arc's weight is the arc's posterior probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

_LABEL, _BLANK = 0, 1
_NEVER = float("-inf")


def tdt_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    frame_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    durations: Sequence[int],
    sigma: float = 0.0,
) -> torch.Tensor:
    """Negative log likelihood of each utterance, ``[B]``, in nats.

    ``logits`` is ``[B, T, U + 1, V + 1 + D]``: tokens, blank, durations, not normalized. ``targets``
    is int64 ``[B, U]``, the lengths int64 ``[B]``; they are checked where they lie, so that lengths on
    the host cost no wait for the device. ``sigma`` is subtracted from every token's log
    probability (logit under-normalization, section 3.3 of the paper), which favours long durations.
    Half-precision logits are summed in float32. An utterance that no path explains has an infinite
    loss and no gradient.
    """
    _check(logits, targets, frame_lengths, target_lengths, durations)
    ends = (frame_lengths.to(logits.device), target_lengths.to(logits.device))
    tokens, skips = logits[..., : -len(durations)], logits[..., -len(durations) :]
    exact = torch.promote_types(logits.dtype, torch.float32)
    total = torch.logsumexp(tokens.to(exact), dim=-1) + sigma  # [B, T, U + 1]
    labels = tokens[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, tokens.shape[1], -1, 1))
    label = functional.pad(labels[..., 0].to(exact), (0, 1)) - total  # [B, T, U + 1], the last u is masked
    blank = tokens[..., -1].to(exact) - total
    skip = torch.log_softmax(skips.to(exact), dim=-1)  # [B, T, U + 1, D]
    arcs = torch.stack((label, blank), dim=3).unsqueeze(4) + skip.unsqueeze(3)  # [B, T, U + 1, 2, D]
    loss: torch.Tensor = _PathSum.apply(  # type: ignore[no-untyped-call]
        arcs, *ends, tuple(durations)
    )
    return loss


def _check(
    logits: torch.Tensor,
    targets: torch.Tensor,
    frame_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    durations: Sequence[int],
) -> None:
    batch, frames, columns, _ = logits.shape
    if list(durations) != sorted(set(durations)) or durations[0] < 0 or durations[-1] < 1:
        raise ValueError(f"durations {tuple(durations)} must ascend from 0 or more to at least 1")
    if targets.shape != (batch, columns - 1):
        raise ValueError(f"targets {tuple(targets.shape)} must be [B, U] = {(batch, columns - 1)}")
    if int(frame_lengths.min()) < 1 or int(frame_lengths.max()) > frames:
        raise ValueError(f"frame lengths must be in 1..{frames}")
    if int(target_lengths.min()) < 0 or int(target_lengths.max()) > columns - 1:
        raise ValueError(f"target lengths must be in 0..{columns - 1}")


class _PathSum(torch.autograd.Function):
    """``-log`` of the sum over paths, from arc weights ``[B, T, U + 1, 2, D]``."""

    @staticmethod
    def forward(
        ctx: Any,
        arcs: torch.Tensor,
        frame_lengths: torch.Tensor,
        target_lengths: torch.Tensor,
        durations: tuple[int, ...],
    ) -> torch.Tensor:
        ends = frame_lengths, target_lengths
        weights = arcs.masked_fill(~_possible(arcs.shape, *ends, durations), _NEVER)
        turned = _turned(weights, *ends)
        incoming = torch.cat((_landing(weights, durations), _landing_turned(turned, durations)))
        chain = torch.cat((_chain(weights), _chain_turned(turned))) if durations[0] == 0 else None
        forward, backward = _scores(incoming, chain).chunk(2)
        batch = torch.arange(arcs.shape[0], device=arcs.device)
        total = forward[batch, frame_lengths, target_lengths]
        ctx.posteriors = _posteriors(weights, forward, _unturned(backward, *ends), total, durations)
        return -total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return -gradient[:, None, None, None, None] * ctx.posteriors, None, None, None


def _possible(
    shape: torch.Size, frame_lengths: torch.Tensor, target_lengths: torch.Tensor, durations: tuple[int, ...]
) -> torch.Tensor:
    """Which arcs lie on a path from ``(0, 0)`` to the end: bool ``[B, T, U + 1, 2, D]``."""
    device = frame_lengths.device
    skip = torch.tensor(durations, device=device)
    lands = torch.arange(shape[1], device=device)[:, None, None] + skip  # [T, 1, D]
    labels = torch.arange(shape[2], device=device)[:, None]  # [U + 1, 1]
    end = frame_lengths[:, None, None, None]
    left = target_lengths[:, None, None, None] - labels  # [B, 1, U + 1, 1]
    label = (lands < end) & (left >= 1)
    blank = (skip >= 1) & (left >= 0) & ((lands < end) | ((lands == end) & (left == 0)))
    return torch.stack((label, blank), dim=3)


def _turned(weights: torch.Tensor, frame_lengths: torch.Tensor, target_lengths: torch.Tensor) -> torch.Tensor:
    """Arcs by the node they leave, counted from the end: ``[B, T + 1, U + 1, 2, D]``."""
    frames = frame_lengths[:, None] - torch.arange(weights.shape[1] + 1, device=weights.device)
    labels = target_lengths[:, None] - torch.arange(weights.shape[2], device=weights.device)
    rows = torch.arange(weights.shape[0], device=weights.device)[:, None, None]
    inside = (frames >= 0)[:, :, None] & (frames < weights.shape[1])[:, :, None] & (labels >= 0)[:, None]
    picked = weights[rows, frames.clamp(0, weights.shape[1] - 1)[:, :, None], labels.clamp(min=0)[:, None]]
    return picked.masked_fill(~inside[..., None, None], _NEVER)


def _unturned(
    scores: torch.Tensor, frame_lengths: torch.Tensor, target_lengths: torch.Tensor
) -> torch.Tensor:
    """Scores ``[B, T + 1, U + 1]`` counted from the end, back in the order of frames and labels."""
    frames = frame_lengths[:, None] - torch.arange(scores.shape[1], device=scores.device)
    labels = target_lengths[:, None] - torch.arange(scores.shape[2], device=scores.device)
    rows = torch.arange(scores.shape[0], device=scores.device)[:, None, None]
    inside = (frames >= 0)[:, :, None] & (labels >= 0)[:, None]
    return scores[rows, frames.clamp(min=0)[:, :, None], labels.clamp(min=0)[:, None]].masked_fill(
        ~inside, _NEVER
    )


def _landing(weights: torch.Tensor, durations: tuple[int, ...]) -> torch.Tensor:
    """Arcs by the node they reach, ``[B, T + 1, longest, 2, U + 1]``; row ``k`` comes from ``longest - k``
    frames earlier."""
    batch, frames, columns, _, _ = weights.shape
    longest = durations[-1]
    landing = weights.new_full((batch, frames + 1, longest, 2, columns), _NEVER)
    for position, skip in enumerate(durations):
        if 1 <= skip <= frames:
            source = weights[:, : frames + 1 - skip, :, :, position]  # [B, T + 1 - d, U + 1, 2]
            landing[:, skip:, longest - skip, _BLANK] = source[..., _BLANK]
            landing[:, skip:, longest - skip, _LABEL, 1:] = source[:, :, :-1, _LABEL]
    return landing


def _landing_turned(turned: torch.Tensor, durations: tuple[int, ...]) -> torch.Tensor:
    """The same for the lattice turned round, where an arc reaches the node that it left before."""
    longest = durations[-1]
    batch, rows, columns, _, _ = turned.shape
    landing = turned.new_full((batch, rows, longest, 2, columns), _NEVER)
    for position, skip in enumerate(durations):
        if skip >= 1:
            landing[:, :, longest - skip] = turned[..., position].transpose(2, 3)
    return landing


def _chain(weights: torch.Tensor) -> torch.Tensor:
    """Weight of walking from ``(t, 0)`` to ``(t, u)`` on labels of duration 0: ``[B, T + 1, U + 1]``."""
    steps = functional.pad(weights[:, :, :-1, _LABEL, 0], (1, 0, 0, 1), value=0.0)
    return _prefix_sums(steps)


def _chain_turned(turned: torch.Tensor) -> torch.Tensor:
    return _prefix_sums(functional.pad(turned[:, :, 1:, _LABEL, 0], (1, 0), value=0.0))


def _prefix_sums(steps: torch.Tensor) -> torch.Tensor:
    # Impossible steps count as 0: the nodes behind them lie beyond an utterance's end or after its last
    # label, and no arc leaves those.
    return steps.masked_fill(steps == _NEVER, 0.0).cumsum(dim=-1)


def _scores(incoming: torch.Tensor, chain: torch.Tensor | None) -> torch.Tensor:
    """Log sum over all paths from the start to each node: ``[N, T + 1, U + 1]``.

    ``chain`` is None where no label has duration 0, so that no frame emits more than one.
    """
    batch, rows, longest, _, columns = incoming.shape
    # Earlier frames and one label fewer than none are padding that no path visits.
    scores = incoming.new_full((batch, longest + rows, columns + 1), _NEVER)
    sources = scores.unfold(2, columns, 1)  # a view [N, longest + T + 1, 2, U + 1]: u - 1, then u
    for row in range(rows):
        if row == 0:
            arrived = incoming.new_full((batch, columns), _NEVER)
            arrived[:, 0] = 0.0
        else:
            arrived = torch.logsumexp(sources[:, row : row + longest] + incoming[:, row], dim=(1, 2))
        if chain is not None:
            arrived = torch.logcumsumexp(arrived - chain[:, row], dim=-1) + chain[:, row]
        scores[:, longest + row, 1:] = arrived
    return scores[:, longest:, 1:]


def _posteriors(
    weights: torch.Tensor,
    forward: torch.Tensor,
    backward: torch.Tensor,
    total: torch.Tensor,
    durations: tuple[int, ...],
) -> torch.Tensor:
    """Probability that a path takes each arc, given that it reaches the end: like ``weights``."""
    frames = weights.shape[1]
    behind = weights.new_full(weights.shape, _NEVER)
    for position, skip in enumerate(durations):
        if skip <= frames:
            reached = backward[:, skip : frames + skip]  # [B, T + 1 - d, U + 1]
            behind[:, : reached.shape[1], :, _BLANK, position] = reached
            behind[:, : reached.shape[1], :-1, _LABEL, position] = reached[:, :, 1:]
    before = forward[:, :-1, :, None, None]
    log_posterior = before + weights + behind - total[:, None, None, None, None]
    explained = torch.isfinite(total)[:, None, None, None, None]
    return torch.where(explained, log_posterior, _NEVER).exp()
