"""Replaying the encoder gives the states and gradients of running it."""

from __future__ import annotations

import pytest
import torch

from training.graphs import GraphedEncoder
from training.model import Trainee
from variants.models.parakeet import TdtArchitecture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_graphed_step_equals_an_eager_step(architecture: TdtArchitecture) -> None:
    """Several shapes in turn, each seen twice, so that graphs are replayed after others were captured."""
    torch.manual_seed(0)
    trainee = Trainee(architecture, dropout=0.0, ctc_weight=0.3, sigma=0.02).cuda().train()
    encode = GraphedEncoder(trainee.encoder, torch.bfloat16)
    for rows, frames in ((4, 210), (2, 370), (4, 210), (2, 370)):
        batch = (
            torch.randn(rows, architecture.feature_bins, frames, device="cuda"),
            torch.full((rows,), frames - 7),
            torch.randint(architecture.vocab_size, (rows, 6)),
            torch.full((rows,), 6),
        )
        losses, gradients = {}, {}
        for name, way in (("graph", encode), ("eager", None)):
            trainee.zero_grad(set_to_none=True)
            loss = trainee(*batch, way).total
            loss.backward()
            losses[name] = loss.detach()
            gradients[name] = torch.cat(
                [p.grad.flatten() for p in trainee.parameters() if p.grad is not None]
            )
        torch.testing.assert_close(losses["graph"], losses["eager"], rtol=1e-2, atol=1e-2)
        similarity = torch.cosine_similarity(gradients["graph"], gradients["eager"], dim=0)
        assert similarity > 0.99
    assert encode.shapes == 2
