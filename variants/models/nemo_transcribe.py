"""NeMo itself, as a peer: ``ASRModel.transcribe``, with its own features, batched greedy search and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from variants.models.options import ModelOptions, resolve_device
from variants.models.parakeet import asr_models
from variants.models.peers import Heard, SegmentPeer, check, versions


def preload() -> None:
    """Import NeMo's models: up to half a minute that a process can spend while another has its turn."""
    asr_models()


def build(options: ModelOptions) -> SegmentPeer:
    """NeMo's model of the weights that ``options`` names. Raises ``UsageError`` naming the file or key."""
    from variants.models.nemo_model import nemo_model

    check(options)
    device = resolve_device(options)
    model = nemo_model(options.weights, options.progress)
    provenance = {
        **model.provenance,
        "device": str(device),
        "packages": versions("nemo_toolkit", "torch"),
    }
    return SegmentPeer(options.name, NemoEngine(model.asr.to(device)), provenance)


@dataclass(frozen=True)
class NemoEngine:
    """See ``variants.models.peers.SegmentEngine``."""

    asr: Any

    def hear(self, samples: Sequence[np.ndarray]) -> list[Heard]:
        found = self.asr.transcribe(list(samples), batch_size=len(samples), num_workers=0, verbose=False)
        return [Heard(each.text, tuple(each.y_sequence.tolist())) for each in found]
