"""A transducer small enough for hundreds of random cases."""

from __future__ import annotations

import torch

from variants.models.parakeet import TdtArchitecture, build_modules
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel

SMALL = TdtArchitecture(
    feature_bins=16,
    d_model=24,
    layers=1,
    heads=2,
    ff_expansion=1,
    conv_kernel=3,
    subsampling_factor=8,
    subsampling_channels=8,
    pos_emb_max_len=100,
    vocab_size=30,
    pred_hidden=16,
    pred_layers=2,
    joint_hidden=16,
)


def small_model() -> TdtModel:
    """Random weights large enough that labels, durations and earlier labels all decide."""
    torch.manual_seed(0)
    encoder, prednet, joint = (module.eval().requires_grad_(False) for module in build_modules(SMALL))
    for module in (prednet, joint):
        for parameter in module.parameters():
            parameter.mul_(3.0)
    return TdtModel(
        name="small",
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=SyntheticTokenizer(SMALL.vocab_size),
        device=torch.device("cpu"),
        dtype=torch.float32,
        durations=SMALL.durations,
        blank_id=SMALL.blank_id,
        max_symbols=SMALL.max_symbols,
        frame_s=SMALL.frame_s,
        feature_bins=SMALL.feature_bins,
    )
