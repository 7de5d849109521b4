"""faster-whisper as a peer: CTranslate2's Whisper behind faster-whisper's features, greedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from variants.models.options import ModelOptions
from variants.models.weights import file_sha256
from variants.models.whisper.ctranslate2 import MODEL_FILE, read_size
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.peers import Peer, Said, check, precision
from variants.models.whisper.rules import FIRST_TIMESTAMPS, GreedyRules, WhisperTokenizer

if TYPE_CHECKING:
    import ctranslate2

Options = WhisperOptions


def preload() -> None:
    import faster_whisper  # noqa: F401


def build(options: ModelOptions) -> Peer:
    """CTranslate2's folder ``options.weights``, computed in ``options.precision`` whatever it is stored in.

    Raises ``UsageError`` naming what is no such folder. Threads are those of the process (OMP_NUM_THREADS).
    """
    from faster_whisper import WhisperModel

    asked, folder = check(options), Path(options.weights).expanduser()
    if not (folder / MODEL_FILE).is_file():
        raise UsageError(
            f"model.weights={folder}: faster_whisper reads CTranslate2's folders, in which there is a "
            f"{MODEL_FILE}; make one with ct2-transformers-converter"
        )
    if asked.language is None:
        raise UsageError("model.options.language=null: give faster_whisper the language")
    size = read_size(folder)
    options.progress(f"loading {folder.name}")
    model = WhisperModel(str(folder), device=options.device, compute_type=precision(options))
    tokenizer = WhisperTokenizer(size, asked)
    provenance = {
        "weights": folder.name,
        "weights_hash": file_sha256(folder / MODEL_FILE),
        "device": model.model.device,
        "precision": options.precision,
        "computed_in": model.model.compute_type,
    }
    return Peer(options.name, FasterEngine(model, tokenizer.rules(size, asked)), tokenizer, asked, provenance)


@dataclass(frozen=True)
class FasterEngine:
    """See ``variants.models.whisper.peers.WindowEngine``."""

    model: Any
    rules: GreedyRules

    def features(self, samples: np.ndarray) -> np.ndarray:
        mel: np.ndarray = self.model.feature_extractor(samples, padding=0)
        return mel[:, : self.model.feature_extractor.nb_max_frames]

    def encode(self, features: np.ndarray) -> ctranslate2.StorageView:
        return self.model.encode(features)

    def decode(self, states: ctranslate2.StorageView) -> Said:
        prompt = self.rules.prompt(self.rules.before)
        (found,) = self.model.model.generate(
            states,
            [list(prompt)],
            beam_size=1,
            max_length=len(prompt) + self.rules.room(len(prompt)),
            suppress_blank=True,
            suppress_tokens=list(self.rules.suppressed),
            max_initial_timestamp_index=FIRST_TIMESTAMPS,
            return_scores=True,
            return_no_speech_prob=True,
            length_penalty=0.0,  # the score is the sum of log probabilities
        )
        tokens = tuple(token for token in found.sequences_ids[0] if token != self.rules.end)
        return Said(tokens, found.no_speech_prob, found.scores[0] / (len(tokens) + 1))
