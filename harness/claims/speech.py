"""Speech for the claims: the project's own audio sets, as samples or as containers."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.audio.decode import decode
from harness.audio.resample import resample
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import AudioSet
from harness.paths import datasets_dir

RATE = 16_000


def audio_set(name: str, items: int, seed: int, cache_dir: Path) -> AudioSet:
    """``items`` recordings of one of the project's sets, rendered if need be."""
    return load_audio_set(name, None, datasets_dir(), cache_dir, items=items, seed=seed)


def samples_of(recordings: AudioSet) -> list[npt.NDArray[np.float32]]:
    """Mono float32 samples at 16 kHz, as a live client would capture them."""
    found = []
    for item in recordings.items:
        audio = decode(item.read())
        found.append(resample(audio, sample_rate=RATE, quality="HQ").samples)
    return found


def wav_of(samples: npt.NDArray[np.float32], length_s: float) -> bytes:
    """A 16-bit WAV of ``length_s`` seconds: the samples, repeated or cut."""
    pcm = np.resize(samples, round(length_s * RATE)) * 32767.0
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(pcm.astype("<i2").tobytes())
    return buffer.getvalue()
