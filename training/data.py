"""Training speech: sentences spoken, passed through rooms, codecs and denoisers, kept as samples.

A corpus is a folder: ``audio.i16`` (16 kHz mono, one clip after another), ``clips.npz`` (where each
clip is and which sentence it says), ``sentences.txt``, ``tokenizer.model`` and ``corpus.json`` (how it
was made). Every clip depends on the seed and its own number alone, so any number of processes renders
the same corpus.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soxr
from tqdm import tqdm

from harness.audio.decode import decode
from harness.audio.limits import Limits
from harness.corpus.encode import encode
from harness.corpus.grammar import Grammar
from harness.corpus.noise import mix, reverberate
from harness.corpus.speech import Voice, speak
from harness.errors import UsageError
from harness.protocols import Audio
from training.text import VOCABULARY, train_tokenizer, training_sentences
from training.voices import pick_voice, training_voices
from variants.frontend.denoise import denoise

SAMPLE_RATE = 16_000
#: Silence kept on both sides of every clip: training cuts into it, as a voice detector would.
MARGIN_S = 0.1

_SPEED_FACTORS = (0.93, 1.07)  # resampling shifts formants too: other throats, not only other speeds
_CODEC_SHARE = 0.15
_DENOISED_SHARE = 0.15
_CODECS = (
    ("webm", 16_000, 16_000),
    ("ogg", 48_000, 24_000),
    ("mp3", 16_000, 64_000),
    ("mp3", 44_100, 64_000),
    ("mp3", 22_050, 32_000),
    ("m4a", 44_100, 64_000),
    ("webm", 8_000, 12_000),
)
_MAX_CLIP_S = 60.0
_CHUNK = 64
_SILENCE = 2e-3  # of full scale; espeak-ng's own silence is digital zero


@dataclass(frozen=True)
class Corpus:
    """A corpus in memory. ``offsets`` and ``lengths`` are in samples, per clip."""

    audio: np.ndarray  # int16 [total]
    offsets: np.ndarray  # int64 [clips]
    lengths: np.ndarray  # int64 [clips]
    texts: tuple[str, ...]
    tokenizer: Path

    @property
    def duration_s(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE


def render_corpus(
    folder: Path,
    clips: int,
    seed: int,
    workers: int,
    vocabulary: int = VOCABULARY,
    tokenizer: Path | None = None,
) -> None:
    """Render ``clips`` texts into ``folder`` with ``workers`` processes.

    ``tokenizer`` is the one to go on with, for weights that were trained with it; otherwise one of
    ``vocabulary`` pieces is trained. Raises ``UsageError`` where it is no file.
    """
    if tokenizer is not None and not tokenizer.is_file():
        raise UsageError(f"{tokenizer}: no such tokenizer; leave --tokenizer out to train one")
    folder.mkdir(parents=True, exist_ok=True)
    sentences = training_sentences(Grammar.load(), np.random.default_rng(seed), clips)
    (folder / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    if tokenizer is None:
        train_tokenizer(sentences, folder / "tokenizer.model", vocabulary)
    else:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")
    lengths = _write_audio(folder / "audio.i16", sentences, seed, workers)
    ends = np.cumsum(lengths)
    np.savez(folder / "clips.npz", offsets=ends - lengths, lengths=lengths)
    voices = [asdict(voice) for voice in training_voices()]
    # Written last: a folder without it is not a corpus.
    description = {"clips": clips, "seed": seed, "audio_s": float(ends[-1]) / SAMPLE_RATE, "voices": voices}
    (folder / "corpus.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_corpus(folder: Path) -> Corpus:
    """Raises ``UsageError`` where ``folder`` holds no complete corpus."""
    if not (folder / "corpus.json").is_file():
        raise UsageError(f"{folder}: no training corpus there; make one with `python -m training data`")
    table = np.load(folder / "clips.npz")
    texts = tuple((folder / "sentences.txt").read_text(encoding="utf-8").splitlines())
    audio = np.memmap(folder / "audio.i16", np.int16, "r")
    return Corpus(audio, table["offsets"], table["lengths"], texts, folder / "tokenizer.model")


def _write_audio(path: Path, sentences: list[str], seed: int, workers: int) -> np.ndarray:
    """Clip lengths in samples; the clips themselves go to ``path`` in order."""
    lengths: list[int] = []
    with path.open("wb") as target, tqdm(total=len(sentences), unit="clip", desc="speech") as bar:
        for clips in _rendered(sentences, seed, workers):
            for clip in clips:
                target.write(clip.tobytes())
                lengths.append(len(clip))
            bar.update(len(clips))
    return np.array(lengths, np.int64)


def _rendered(sentences: list[str], seed: int, workers: int) -> Iterator[list[np.ndarray]]:
    starts = range(0, len(sentences), _CHUNK)
    chunks = [sentences[start : start + _CHUNK] for start in starts]
    # Fresh interpreters: a fork would inherit locks and threads of whatever the caller has imported.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_render_chunk, chunks, starts, [seed] * len(chunks))


def _render_chunk(sentences: list[str], first: int, seed: int) -> list[np.ndarray]:
    voices = training_voices()
    return [
        render_clip(sentence, voices, np.random.default_rng((seed, 1, first + number)))
        for number, sentence in enumerate(sentences)
    ]


def render_clip(sentence: str, voices: tuple[Voice, ...], rng: np.random.Generator) -> np.ndarray:
    """``sentence`` in one of ``voices`` through a random channel: int16 ``[n]`` at 16 kHz."""
    spoken = speak(sentence, pick_voice(voices, rng))
    factor = rng.uniform(*_SPEED_FACTORS)
    samples = soxr.resample(spoken.samples, spoken.sample_rate * factor, SAMPLE_RATE, quality="HQ")
    clip = trim(samples)
    channel = rng.random()
    if channel < _CODEC_SHARE:
        clip = _through_codec(_in_a_room(clip, rng), rng)
    elif channel < _CODEC_SHARE + _DENOISED_SHARE:
        noisy = mix(_in_a_room(clip, rng), rng.uniform(5.0, 30.0), rng)
        clip = denoise(noisy, level=int(rng.integers(1, 4)))
    peak = max(1.0, float(np.abs(clip.samples).max(initial=0.0)))
    return np.round(clip.samples * (32767.0 / peak)).astype(np.int16)


def trim(samples: np.ndarray) -> Audio:
    """The speech of ``samples`` (16 kHz) with exactly ``MARGIN_S`` of silence on both sides."""
    loud = np.flatnonzero(np.abs(samples) > _SILENCE)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, 0)
    margin = round(MARGIN_S * SAMPLE_RATE)
    return Audio(np.pad(samples[first:last], margin).astype(np.float32), SAMPLE_RATE)


def _in_a_room(clip: Audio, rng: np.random.Generator) -> Audio:
    if rng.random() < 0.3:
        clip = reverberate(clip, rng.uniform(0.1, 0.4), rng)
    if rng.random() < 0.3:
        clip = mix(clip, rng.uniform(10.0, 30.0), rng)
    return clip


def _through_codec(clip: Audio, rng: np.random.Generator) -> Audio:
    container, sample_rate, bit_rate = _CODECS[int(rng.integers(len(_CODECS)))]
    return through_codec(clip, container, sample_rate, bit_rate)


def through_codec(clip: Audio, container: str, sample_rate: int, bit_rate: int) -> Audio:
    """``clip`` (16 kHz mono) encoded, decoded and back at 16 kHz, as a service would hear it."""
    decoded = decode(encode(clip, container, sample_rate, 1, bit_rate), Limits(max_audio_s=_MAX_CLIP_S))
    samples = soxr.resample(decoded.samples, decoded.sample_rate, SAMPLE_RATE, quality="HQ")
    return Audio(samples.astype(np.float32), SAMPLE_RATE)
