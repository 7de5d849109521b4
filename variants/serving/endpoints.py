"""Where speakers stop: a voice detector that hears every live stream as it comes.

Silero's, window after window (32 ms), with its state carried from push to push, on the host. An utterance
ends at the window with which silence after speech has lasted long enough, however the sound was cut.
"""

from __future__ import annotations

import numpy as np

from variants.frontend.vad import SILERO_CONTEXT, SILERO_STATE, SILERO_WINDOW, SileroVad
from variants.serving.window import Endpointing

_HYSTERESIS = 0.15
_LEAST_SPEECH_S = 0.1


class Endpoints:
    """The detector's state of each of ``slots`` streams at 16 kHz, there from the beginning."""

    def __init__(self, options: Endpointing, slots: int, sample_rate: int) -> None:
        """Raises ``UnavailableError`` where the detector is not installed."""
        self._threshold = options.threshold
        self._silent_windows = max(1, round(options.silence_s * sample_rate / SILERO_WINDOW))
        self._spoken_windows = max(1, round(_LEAST_SPEECH_S * sample_rate / SILERO_WINDOW))
        self._detector = SileroVad()
        self._hidden = np.zeros((slots, *SILERO_STATE), np.float32)
        self._cell = np.zeros((slots, *SILERO_STATE), np.float32)
        self._sound = np.zeros((slots, SILERO_CONTEXT + SILERO_WINDOW), np.float32)
        self._held = np.zeros(slots, np.int64)  # of the window that is not whole yet
        self._spoken = np.zeros(slots, np.int64)  # windows of this utterance
        self._silent = np.zeros(slots, np.int64)  # and windows since
        self.found = 0

    def clear(self, slot: int) -> None:
        """For a new stream."""
        for state in (self._hidden, self._cell, self._sound, self._held, self._spoken, self._silent):
            state[slot] = 0

    def hear(self, slot: int, samples: np.ndarray) -> tuple[int, bool]:
        """How many of ``samples`` were heard, and whether an utterance ended with the last of these."""
        sound, heard = self._sound[slot], 0
        while heard < len(samples):
            held = int(self._held[slot])
            taken = min(SILERO_WINDOW - held, len(samples) - heard)
            sound[SILERO_CONTEXT + held :][:taken] = samples[heard : heard + taken]
            heard += taken
            self._held[slot] = (held + taken) % SILERO_WINDOW
            if held + taken == SILERO_WINDOW:
                ended = self._take(slot, self._probability(slot))
                sound[:SILERO_CONTEXT] = sound[-SILERO_CONTEXT:]
                if ended:
                    return heard, True
        return heard, False

    def _probability(self, slot: int) -> float:
        found, self._hidden[slot], self._cell[slot] = self._detector.windows(
            self._sound[slot][None], self._hidden[slot], self._cell[slot]
        )
        return float(found[0])

    def _take(self, slot: int, probability: float) -> bool:
        """Whether an utterance ends with this window."""
        if probability >= self._threshold:
            self._spoken[slot] += 1
            self._silent[slot] = 0
        elif probability < self._threshold - _HYSTERESIS:
            self._silent[slot] += 1
        ended = self._spoken[slot] >= self._spoken_windows and self._silent[slot] >= self._silent_windows
        if ended:
            self._spoken[slot] = self._silent[slot] = 0
            self.found += 1
        return bool(ended)
