"""The model as it is trained: the measured modules, and a CTC head that only training has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.graphs import Encode
from training.tdt_loss import tdt_loss
from variants.models.parakeet import Modules, TdtArchitecture, build_modules
from variants.models.types import TdtModel, Tokenizer


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss per target piece of the batch in nats: what is minimized, and its parts."""

    total: torch.Tensor
    tdt: torch.Tensor
    ctc: torch.Tensor

    def parts(self) -> dict[str, torch.Tensor]:
        return {"loss": self.total.detach(), "tdt": self.tdt.detach(), "ctc": self.ctc.detach()}


class Trainee(nn.Module):
    """Encoder, prediction network and joint, with an auxiliary CTC head on the encoder.

    CTC alone tells the encoder early where each piece is said; a transducer that starts cold first
    spends its time on emitting blanks.
    """

    def __init__(
        self, architecture: TdtArchitecture, dropout: float, ctc_weight: float, sigma: float
    ) -> None:
        super().__init__()
        self.encoder, self.prednet, self.joint = build_modules(architecture)
        self.ctc = nn.Linear(architecture.d_model, architecture.vocab_size + 1)
        self.architecture = architecture
        self._ctc_weight = ctc_weight
        self._sigma = sigma
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def forward(
        self,
        features: torch.Tensor,
        frames: torch.Tensor,
        targets: torch.Tensor,
        target_lengths: torch.Tensor,
        encode: Encode | None = None,
    ) -> Losses:
        """Losses of features ``[B, F, T]``, on the model's device; the rest lies on the host, where
        reading it does not wait for the device: frame counts ``[B]``, targets ``[B, U]``, their counts.

        ``encode`` stands in for the encoder, to run the same weights in another way. Matrix products
        are in bfloat16 on a GPU.
        """
        device = features.device
        labels = targets.to(device, non_blocking=True)
        on_gpu = device.type == "cuda"
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu, cache_enabled=False):
            states = (encode or self._encode)(features, frames.to(device, non_blocking=True))
            states = states.transpose(1, 2)  # [B, T', D]
            predictions, _, _ = self.prednet(targets=labels, target_length=target_lengths)  # [B, H, U + 1]
            joint: Any = self.joint
            logits = joint.joint(states, predictions.transpose(1, 2))  # [B, T', U + 1, V + 1 + D]
            ctc_logits = self.ctc(states)
        lengths = encoded_frames(frames, self.architecture)
        # Per piece, not per utterance: batches hold as much speech each, in few long turns or many short.
        pieces = max(1, int(target_lengths.sum()))
        durations = self.architecture.durations
        tdt = tdt_loss(logits, labels, lengths, target_lengths, durations, self._sigma).sum() / pieces
        ctc = self._ctc_loss(ctc_logits, labels, lengths, target_lengths) / pieces
        return Losses((1 - self._ctc_weight) * tdt + self._ctc_weight * ctc, tdt, ctc)

    def _encode(self, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.encoder(audio_signal=features, length=frames)[0]  # [B, D, T']
        return states

    def _ctc_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """Summed over the batch; nothing for an utterance with fewer frames than CTC needs."""
        return functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            labels,
            lengths,
            counts,
            blank=self.architecture.blank_id,
            reduction="sum",
            zero_infinity=True,
        )

    def as_served(self, tokenizer: Tokenizer) -> TdtModel:
        """The same modules as encoders and decoders take them, in ``eval()`` mode until trained on."""
        return served((self.encoder, self.prednet, self.joint), self.architecture, tokenizer)


def served(modules: Modules, architecture: TdtArchitecture, tokenizer: Tokenizer) -> TdtModel:
    """``modules`` in ``eval()`` mode, where and of what number type they are."""
    encoder, prednet, joint = (module.eval() for module in modules)
    parameter = next(encoder.parameters())
    return TdtModel(
        name="parakeet_tiny",
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=tokenizer,
        device=parameter.device,
        dtype=parameter.dtype,
        durations=architecture.durations,
        blank_id=architecture.blank_id,
        max_symbols=architecture.max_symbols,
        frame_s=architecture.frame_s,
        hop_s=architecture.hop_s,
        feature_bins=architecture.feature_bins,
    )


def encoded_frames(frames: torch.Tensor, architecture: TdtArchitecture) -> torch.Tensor:
    """Encoder frames of so many feature frames: each subsampling stage halves, rounding up."""
    return -(-frames // architecture.subsampling_factor)


def padded(pieces: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces of each text as int64 ``[B, U]`` and their counts ``[B]``, on the host."""
    counts = torch.tensor([len(row) for row in pieces])
    table = np.zeros((len(pieces), int(counts.max())), np.int64)
    for row, tokens in enumerate(pieces):
        table[row, : len(tokens)] = tokens
    return torch.from_numpy(table), counts
