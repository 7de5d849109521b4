"""Word error rates on sentences that training never sees, per condition.

Sentences come from the held-out tenth of the grammar, voices are the project's own, features are those
of the front end, the encoder and decoder the eager ones. Everything follows from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soxr
from tqdm import tqdm

from harness.corpus.grammar import Grammar
from harness.corpus.noise import mix
from harness.corpus.speech import VOICES, Voice, speak
from harness.measure.wer import NO_ERRORS, WordErrors, count_errors
from harness.protocols import Audio, Segment, ShapePlan
from harness.protocols.options import NoOptions
from training.data import SAMPLE_RATE, through_codec, trim
from training.model import served
from training.text import held_out_sentences
from training.voices import HELD_OUT, held_out_voices
from variants.decoder import cpu_synced
from variants.encoder import eager
from variants.frontend.denoise import denoise
from variants.models.embedded_weights import load_embedded
from variants.models.parakeet import PARAKEET_TINY
from variants.models.types import TdtModel

SEED = 20_261_121
_BATCH = 16
_LONGEST_S = 40.0

Change = Callable[[Audio, np.random.Generator], Audio]


@dataclass(frozen=True, slots=True)
class Condition:
    """Who speaks, what happens to the sound, and the word error rate that the project asks for."""

    voices: tuple[Voice, ...]
    change: Change
    target: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Errors of one condition, and each utterance as (reference, hypothesis)."""

    errors: WordErrors
    pairs: tuple[tuple[str, str], ...]

    @property
    def wer(self) -> float:
        return self.errors.total / self.errors.words


def _unchanged(audio: Audio, rng: np.random.Generator) -> Audio:
    del rng
    return audio


def _noisy(audio: Audio, rng: np.random.Generator) -> Audio:
    return mix(audio, 15.0, rng)


def _noisy_denoised(audio: Audio, rng: np.random.Generator) -> Audio:
    return denoise(mix(audio, 15.0, rng), level=2)


def _opus(audio: Audio, rng: np.random.Generator) -> Audio:
    del rng
    return through_codec(audio, "webm", 16_000, 16_000)


def _mp3(audio: Audio, rng: np.random.Generator) -> Audio:
    del rng
    return through_codec(audio, "mp3", 44_100, 64_000)


def conditions() -> Mapping[str, Condition]:
    """The fixed conditions by name."""
    known = tuple(voice for name, voice in VOICES.items() if name not in HELD_OUT)
    return MappingProxyType(
        {
            "training voices": Condition(known, _unchanged, 0.03),
            "held-out voices": Condition(held_out_voices(), _unchanged, 0.10),
            "noise, 15 dB SNR": Condition(known, _noisy, 0.08),
            "noise, 15 dB SNR, denoised": Condition(known, _noisy_denoised, None),
            "Opus, 16 kbit/s": Condition(known, _opus, 0.05),
            "MP3, 64 kbit/s": Condition(known, _mp3, 0.05),
        }
    )


def evaluate(model: TdtModel, sentences: int, progress: bool = True) -> dict[str, Outcome]:
    """Transcribe ``sentences`` held-out sentences under each condition."""
    texts = held_out_sentences(Grammar.load(), np.random.default_rng(SEED), sentences)
    named = conditions()
    with tqdm(total=sentences * len(named), unit="utt", desc="evaluate", disable=not progress) as bar:
        return {name: _evaluate(model, texts, condition, bar) for name, condition in named.items()}


def _evaluate(model: TdtModel, texts: Sequence[str], condition: Condition, bar: tqdm[None]) -> Outcome:
    segments = [render(text, condition, number) for number, text in enumerate(texts)]
    pairs = tuple(zip(texts, _in_order(model, segments, bar), strict=True))
    return Outcome(sum((count_errors(*pair) for pair in pairs), NO_ERRORS), pairs)


def render(text: str, condition: Condition, number: int) -> Segment:
    """Utterance ``number``: every voice in turn, a tenth of a second of silence on both sides."""
    voice = condition.voices[number % len(condition.voices)]
    spoken = speak(text, voice)
    samples = soxr.resample(spoken.samples, spoken.sample_rate, SAMPLE_RATE, quality="HQ")
    changed = condition.change(trim(samples), np.random.default_rng((SEED, number)))
    return Segment(changed.samples, SAMPLE_RATE, 0.0)


def _in_order(model: TdtModel, segments: Sequence[Segment], bar: tqdm[None]) -> list[str]:
    """Transcripts of ``segments``; segments of like length share a batch."""
    order = sorted(range(len(segments)), key=lambda index: len(segments[index].samples))
    found: dict[int, str] = {}
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        found.update(zip(chosen, transcribe(model, [segments[index] for index in chosen]), strict=True))
        bar.update(len(chosen))
    return [found[index] for index in range(len(segments))]


def transcribe(model: TdtModel, segments: Sequence[Segment]) -> Iterator[str]:
    """Texts of a batch of segments, through the eager encoder and the reference decoder."""
    plan = ShapePlan((_LONGEST_S,), len(segments))
    encoded = eager.build(model, NoOptions(), plan).encode(model.features(segments))
    for hypothesis in cpu_synced.build(model, NoOptions(), plan).decode(encoded).hypotheses:
        yield model.tokenizer.decode(hypothesis.tokens)


def load_exported(folder: Path | None = None) -> TdtModel:
    """The exported model of ``folder``, or the packaged one, on the CPU in float32."""
    weights = load_embedded("parakeet_tiny", PARAKEET_TINY, folder)
    return served(weights.modules, PARAKEET_TINY, weights.tokenizer)


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Word error rate per condition with its parts and target, in Markdown."""
    rows = ["| condition | WER | ins | del | sub | words | target |", "|---|---|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        errors, target = outcome.errors, conditions()[name].target
        wanted = "" if target is None else f"≤ {target:.0%}"
        rows.append(
            f"| {name} | {outcome.wer:.2%} | {errors.insertions} | {errors.deletions} | "
            f"{errors.substitutions} | {errors.words} | {wanted} |"
        )
    return "\n".join(rows)


def missed(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Conditions whose word error rate is above its target."""
    targets = {name: condition.target for name, condition in conditions().items()}
    return [name for name, outcome in outcomes.items() if outcome.wer > (targets[name] or 1.0)]


def report(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Everything of an evaluation in JSON types."""
    return {
        "seed": SEED,
        "conditions": {
            name: {
                "wer": outcome.wer,
                "target": conditions()[name].target,
                **asdict(outcome.errors),
                "transcripts": [{"reference": said, "hypothesis": heard} for said, heard in outcome.pairs],
            }
            for name, outcome in outcomes.items()
        },
    }
