"""The training loop: as many steps as the time allows, the learning rate tied to the time that is left."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harness.corpus.grammar import Grammar
from harness.errors import HarnessError, UnavailableError, UsageError
from harness.measure.wer import NO_ERRORS, count_errors
from training.augment import Augmentation, augment, mask_features
from training.batches import Batch, Batches
from training.data import SAMPLE_RATE, Corpus
from training.evaluate import conditions, render, transcribe
from training.export import export, load_weights
from training.graphs import GraphedEncoder
from training.model import Losses, Trainee, padded
from training.text import Pieces, held_out_sentences
from variants.models.device_features import BatchLogMel
from variants.models.features import FeatureConfig
from variants.models.parakeet import PARAKEET_TINY, TdtArchitecture

_CLIP_NORM = 1.0
_PROBE_SEED = 7


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run. ``minutes`` bounds it, and ``steps`` where given."""

    minutes: float = 9.0
    steps: int | None = None
    batch_s: float = 1200.0
    learning_rate: float = 2e-3
    final_rate: float = 1e-5
    warm_up_steps: int = 500
    weight_decay: float = 1e-3
    dropout: float = 0.05
    ctc_weight: float = 0.3
    sigma: float = 0.02
    seed: int = 0
    device: str = "auto"
    log_steps: int = 50
    probe_s: float = 60.0
    """Seconds between two measurements of the word error rate, each with a checkpoint and an export."""
    probe_sentences: int = 48
    augment: bool = True
    graphs: bool = True
    """Replay the encoder as CUDA graphs; needs a GPU, and means nothing without one."""

    def __post_init__(self) -> None:
        for name in ("minutes", "batch_s", "learning_rate", "warm_up_steps", "log_steps", "probe_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0")

    def resolved_device(self) -> torch.device:
        """``auto`` is the GPU where there is one. Raises ``UnavailableError`` for one that is not there."""
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise UnavailableError("--device cuda: torch finds no GPU here; use --device cpu or auto")
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps, and seconds of training over all its sessions."""

    step: int = 0
    elapsed_s: float = 0.0

    def share(self, recipe: Recipe) -> float:
        """The part of the budget that is used, 0 to 1."""
        by_time = self.elapsed_s / (60.0 * recipe.minutes)
        by_steps = self.step / recipe.steps if recipe.steps else 0.0
        return min(1.0, max(by_time, by_steps))


def learning_rate(recipe: Recipe, progress: Progress) -> float:
    """A linear warm-up over steps, times a cosine over the budget down to ``final_rate``."""
    warm = min(1.0, (progress.step + 1) / recipe.warm_up_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress.share(recipe)))
    return warm * (recipe.final_rate + (recipe.learning_rate - recipe.final_rate) * cosine)


class Run:
    """One training run: its state in ``folder`` (checkpoint, log) and its exports in ``folder/export``."""

    def __init__(
        self, corpus: Corpus, folder: Path, recipe: Recipe, architecture: TdtArchitecture = PARAKEET_TINY
    ) -> None:
        self._recipe, self._folder, self._corpus = recipe, folder, corpus
        folder.mkdir(parents=True, exist_ok=True)
        device = self._device = recipe.resolved_device()
        torch.manual_seed(recipe.seed)
        self._trainee = Trainee(architecture, recipe.dropout, recipe.ctc_weight, recipe.sigma).to(device)
        graphed = recipe.graphs and device.type == "cuda"
        self._encode = GraphedEncoder(self._trainee.encoder, torch.bfloat16) if graphed else None
        self._pieces = Pieces(corpus.tokenizer)
        self._clip_pieces = list(self._pieces.encode(corpus.texts))
        self._features = BatchLogMel(FeatureConfig(n_mels=architecture.feature_bins), SAMPLE_RATE).to(device)
        self._optimizer = torch.optim.AdamW(
            self._trainee.parameters(),
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=device.type == "cuda",
        )
        self._noise = torch.Generator(device).manual_seed(recipe.seed)
        self._progress = Progress()
        self._probe = Probe(recipe.probe_sentences)

    @property
    def checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    def resume(self) -> None:
        """Go on where the checkpoint of this folder stopped. Raises ``UsageError`` without one."""
        if not self.checkpoint.is_file():
            raise UsageError(f"{self.checkpoint}: no checkpoint to resume from; leave --resume out")
        state = torch.load(self.checkpoint, map_location=self._device, weights_only=True)
        self._trainee.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._progress = Progress(state["step"], state["elapsed_s"])

    def start_from(self, weights: Path) -> None:
        """Begin with exported weights instead of random ones; the CTC head starts anew."""
        load_weights(self._trainee, weights)

    def train(self) -> float:
        """Train until the budget is used; the last word error rate on held-out sentences."""
        with _bar() as bar, (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            for losses, probe_due in self._steps():
                if self._progress.step % self._recipe.log_steps == 0:
                    self._log(losses, log, bar)
                if probe_due:
                    self._measure(log, bar)
            return self._measure(log, bar)

    def _steps(self) -> Iterator[tuple[Losses, bool]]:
        """Steps until the budget is used, with whether a measurement is due after each."""
        recipe, earlier_s, start_s = self._recipe, self._progress.elapsed_s, time.monotonic()
        measured = 0.0
        batches = iter(Batches(self._corpus, recipe.batch_s, self._device, recipe.seed + self._progress.step))
        while self._progress.share(recipe) < 1.0:
            losses = self._step(next(batches))
            session_s = time.monotonic() - start_s
            self._progress = Progress(self._progress.step + 1, earlier_s + session_s)
            due = session_s - measured >= recipe.probe_s
            measured = session_s if due else measured
            yield losses, due

    def _step(self, batch: Batch) -> Losses:
        self._trainee.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._recipe, self._progress)
        said = [[piece for clip in clips for piece in self._clip_pieces[clip]] for clips in batch.clips]
        losses: Losses = self._trainee(*self._prepare(batch), *padded(said), self._encode)
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trainee.parameters(), _CLIP_NORM)
        self._optimizer.step()
        return losses

    @torch.no_grad()
    def _prepare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Features ``[B, F, T]`` on the device and frame counts ``[B]`` on the host."""
        lengths = batch.lengths.to(self._device, non_blocking=True)
        samples = batch.samples
        if self._recipe.augment:
            samples = augment(samples, lengths, Augmentation(), self._noise)
        features, frames = self._features(samples, lengths)
        if self._recipe.augment:
            features = mask_features(features, frames, self._noise)
        return features, self._features.frames(batch.lengths)

    def _log(self, losses: Losses, log: Any, bar: tqdm[Any]) -> None:
        values = {name: float(value) for name, value in losses.parts().items()}
        if not math.isfinite(values["loss"]):
            raise HarnessError(
                f"the loss is {values['loss']} at step {self._progress.step}: lower --learning-rate "
                "and go on from the last checkpoint with --resume"
            )
        rate = learning_rate(self._recipe, self._progress)
        log.write(json.dumps({**asdict(self._progress), "learning_rate": rate, **values}) + "\n")
        log.flush()
        bar.set_postfix({"step": self._progress.step, **values}, refresh=False)
        bar.update(100.0 * self._progress.share(self._recipe) - bar.n)

    def _measure(self, log: Any, bar: tqdm[Any]) -> float:
        """Word error rate now, and everything written to disk."""
        word_error_rate, example = self._probe(self._trainee, self._pieces)
        bar.write(f"step {self._progress.step}: WER {word_error_rate:.2%}, {example}")
        log.write(json.dumps({**asdict(self._progress), "wer": word_error_rate}) + "\n")
        log.flush()
        self._save()
        export(self._trainee, self._corpus.tokenizer, self._folder / "export")
        return word_error_rate

    def _save(self) -> None:
        """Replace the checkpoint in one move, so that a kill leaves the old one or the new one."""
        state = {
            "model": self._trainee.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **asdict(self._progress),
        }
        fresh = self.checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self.checkpoint)


class Probe:
    """A quick word error rate: a few held-out sentences in training voices, without noise."""

    def __init__(self, sentences: int) -> None:
        self._texts = held_out_sentences(Grammar.load(), np.random.default_rng(_PROBE_SEED), sentences)
        clean = conditions()["training voices"]
        self._segments = [render(text, clean, number) for number, text in enumerate(self._texts)]

    def __call__(self, trainee: Trainee, pieces: Pieces) -> tuple[float, str]:
        """The rate, and one sentence beside what was heard."""
        heard = list(transcribe(trainee.as_served(pieces), self._segments))
        errors = sum(map(count_errors, self._texts, heard), NO_ERRORS)
        return errors.total / errors.words, f"{self._texts[0]!r} -> {heard[0]!r}"


@contextmanager
def _bar() -> Iterator[tqdm[Any]]:
    # Where the output is a file, a line every ten seconds is enough.
    pause_s = 0.5 if sys.stderr.isatty() else 10.0
    layout = "{desc}: {percentage:3.0f}% {bar} {elapsed}{postfix}"
    with tqdm(total=100.0, desc="train", bar_format=layout, mininterval=pause_s) as bar:
        yield bar
