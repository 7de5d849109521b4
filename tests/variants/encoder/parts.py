"""A small encoder, and shapes prepared without a graph: the same buffers, the same places, no GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from variants.encoder.compiled import Forward
from variants.models.parakeet import TdtArchitecture, build_modules
from variants.models.types import TdtModel

ARCHITECTURE = TdtArchitecture(
    feature_bins=32,
    d_model=48,
    layers=2,
    heads=4,
    ff_expansion=4,
    conv_kernel=9,
    subsampling_factor=8,
    subsampling_channels=16,
    pos_emb_max_len=200,
    vocab_size=16,
    pred_hidden=16,
    pred_layers=1,
    joint_hidden=16,
)


class NoTokenizer:
    def decode(self, tokens: object) -> str:
        return str(tokens)


def small_model(device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> TdtModel:
    torch.manual_seed(seed)
    modules = build_modules(ARCHITECTURE)
    encoder, prednet, joint = (m.eval().requires_grad_(False).to(device, dtype) for m in modules)
    return TdtModel(
        name="small",
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=NoTokenizer(),
        device=torch.device(device),
        dtype=dtype,
        durations=(0, 1, 2, 3, 4),
        blank_id=16,
        max_symbols=10,
        frame_s=0.08,
        feature_bins=ARCHITECTURE.feature_bins,
    )


class DirectCall:
    """Runs the recorded function again on the same buffers, as a replay does."""

    def __init__(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> None:
        self._again: Callable[[], tuple[torch.Tensor, torch.Tensor]] = lambda: forward(features, lengths)
        self.run()

    @torch.inference_mode()
    def run(self) -> None:
        self.states, self.lengths = self._again()


class DirectRecorder:
    def __init__(self) -> None:
        self.captures = 0

    def record(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> DirectCall:
        self.captures += 1
        return DirectCall(forward, features, lengths)

    def apart(self) -> DirectRecorder:
        return type(self)()


class DeafRecorder(DirectRecorder):
    """Prepares shapes that take every frame for valid: what a wrong mask does."""

    def record(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> DirectCall:
        full = torch.full_like(lengths, features.shape[2])
        return super().record(lambda x, valid: (forward(x, full)[0], forward(x, valid)[1]), features, lengths)
