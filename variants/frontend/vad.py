"""How likely each stretch of mono audio is speech."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import webrtcvad

from harness.audio.pcm import to_pcm16
from harness.errors import UnavailableError
from harness.protocols import Audio, SpeechMap
from variants.onnx_sessions import quiet_onnxruntime, session_options

_WEBRTC_WINDOW_S = 0.03

SILERO_WINDOW = 512  # samples, at 16 kHz
SILERO_CONTEXT = 64  # samples of the window before, which the model sees as well
SILERO_STATE = (1, 1, 128)
"""Shape of the hidden and of the cell state between two windows."""
_SILERO_BLOCK = 128  # windows per call: measured fastest, and the memory stays small
_SILERO_FILE = "silero_vad_16k_sequence.onnx"


def all_speech(audio: Audio) -> SpeechMap:
    """Everything is speech: probability 1 in windows of 30 ms."""
    count = _window_count(audio, round(_WEBRTC_WINDOW_S * audio.sample_rate))
    return SpeechMap(audio, np.ones(count, np.float32), _WEBRTC_WINDOW_S)


def webrtc_vad(audio: Audio, *, aggressiveness: int) -> SpeechMap:
    """WebRTC's Gaussian-mixture detector in windows of 30 ms: probabilities are 0 or 1."""
    window = round(_WEBRTC_WINDOW_S * audio.sample_rate)
    count = _window_count(audio, window)
    pcm = to_pcm16(audio.samples).ljust(count * window * 2, b"\0")
    detector = webrtcvad.Vad(aggressiveness)
    starts = range(0, len(pcm), window * 2)
    votes = [detector.is_speech(pcm[start : start + window * 2], audio.sample_rate) for start in starts]
    return SpeechMap(audio, np.array(votes, np.float32), _WEBRTC_WINDOW_S)


class SileroVad:
    """Silero's recurrent detector through ONNX Runtime, in windows of 32 ms at 16 kHz.

    Runs Silero's sequence graph, which loops over windows inside one call: the same numbers as the
    streaming graph at three to five times its speed, most of it without the interpreter's lock.
    Holds no state between calls; threads may share it.
    """

    def __init__(self, model: Path | None = None) -> None:
        """Raises ``UnavailableError`` where the installed package lacks the sequence graph."""
        self._session = _session(model or silero_model())

    def __call__(self, audio: Audio) -> SpeechMap:
        hidden = cell = np.zeros(SILERO_STATE, np.float32)
        probabilities = [np.zeros(0, np.float32)]
        for block in _silero_blocks(audio.samples):
            block_probabilities, hidden, cell = self.windows(block, hidden, cell)
            probabilities.append(block_probabilities)
        return SpeechMap(audio, np.concatenate(probabilities), SILERO_WINDOW / audio.sample_rate)

    def windows(
        self, block: np.ndarray, hidden: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities ``[w]`` of consecutive windows with their contexts ``[w, 576]``, and the state after
        them."""
        found = self._session.run(["speech_probs", "hn", "cn"], {"input": block, "h": hidden, "c": cell})
        return found[0], found[1], found[2]


def silero_model() -> Path:
    """The graph that ``SileroVad`` runs."""
    return silero_file(_SILERO_FILE)


def silero_file(name: str) -> Path:
    """A file of the installed ``silero_vad``, found without importing it (it imports torch).

    Raises ``UnavailableError`` where it is not there.
    """
    spec = find_spec("silero_vad")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder) / "data" / name
        if path.is_file():
            return path
    raise UnavailableError(
        f"frontend.vad=silero needs {name} of the package silero-vad, which is not installed: "
        "pip install --upgrade silero-vad, or set frontend.vad=webrtc"
    )


def _session(model: Path) -> Any:
    made = quiet_onnxruntime().InferenceSession
    return made(str(model), session_options(threads=1), providers=["CPUExecutionProvider"])


def _silero_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Windows with the context before each, float32 ``[<=128, 576]``; the last window is zero-padded."""
    step = _SILERO_BLOCK * SILERO_WINDOW
    for start in range(0, len(samples), step):
        first = max(start - SILERO_CONTEXT, 0)
        chunk = samples[first : start + step]
        windows = -(-(len(chunk) - (start - first)) // SILERO_WINDOW)
        padded = np.zeros(SILERO_CONTEXT + windows * SILERO_WINDOW, np.float32)
        offset = SILERO_CONTEXT - (start - first)
        padded[offset : offset + len(chunk)] = chunk
        frames = np.lib.stride_tricks.sliding_window_view(padded, SILERO_CONTEXT + SILERO_WINDOW)
        yield np.ascontiguousarray(frames[::SILERO_WINDOW])


def _window_count(audio: Audio, window: int) -> int:
    return -(-len(audio.samples) // window)
