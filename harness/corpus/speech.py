"""Speech for audio sets: espeak-ng speaks a text in one of many voices.

The output depends on the arguments alone, so that a seed names an audio set. espeak-ng keeps state
between utterances (oscillator phases, echo buffer, random numbers) that ``espeak_Terminate`` does
not reset. Every utterance therefore gets a library instance of its own: loaded, used, unloaded. It
costs a few milliseconds.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import espeakng_loader
import numpy as np

from harness.errors import UnavailableError, UsageError
from harness.protocols import Audio

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_CHARS_UTF8 = 1
_CALLBACK_BUFFER_MS = 1000
MAX_SPEED_WPM = 450
_SPEED_RANGE_WPM = (80, MAX_SPEED_WPM)
_PITCH_RANGE = (0, 99)
_RANDOM_SEED = 1

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# A library is loaded once per process, so two threads would share the instance they think their own.
_ONE_INSTANCE = threading.Lock()


def _check_range(voice: str, key: str, value: int, allowed: tuple[int, int]) -> None:
    if not allowed[0] <= value <= allowed[1]:
        raise UsageError(f"voice {voice!r}: {key}={value} is outside {allowed[0]}..{allowed[1]}")


@dataclass(frozen=True, slots=True)
class Voice:
    """An espeak-ng voice: language ``name``, timbre ``variant``, speed in words a minute, pitch 0-99."""

    name: str
    variant: str = ""
    speed_wpm: int = 175
    pitch: int = 50

    def __post_init__(self) -> None:
        _check_range(self.name, "speed_wpm", self.speed_wpm, _SPEED_RANGE_WPM)
        _check_range(self.name, "pitch", self.pitch, _PITCH_RANGE)


#: The voices that a specification may name. ``en`` is espeak-ng's British English.
VOICES: Mapping[str, Voice] = MappingProxyType(
    {
        "us_male_1": Voice("en-us", "m1", 165, 45),
        "us_male_2": Voice("en-us", "m3", 190, 38),
        "us_male_3": Voice("en-us", "m7", 150, 52),
        "us_female_1": Voice("en-us", "f1", 175, 55),
        "us_female_2": Voice("en-us", "f2", 205, 60),
        "us_female_3": Voice("en-us", "f4", 155, 48),
        "nyc_male": Voice("en-us-nyc", "m2", 200, 42),
        "gb_male": Voice("en", "m4", 160, 40),
        "gb_female": Voice("en", "f3", 180, 58),
        "rp_male": Voice("en-gb-x-rp", "m5", 145, 46),
        "rp_female": Voice("en-gb-x-rp", "f5", 170, 62),
        "scotland_male": Voice("en-gb-scotland", "m6", 185, 44),
        "scotland_female": Voice("en-gb-scotland", "f1", 165, 64),
        "lancaster_male": Voice("en-gb-x-gbclan", "m2", 170, 50),
        "midlands_female": Voice("en-gb-x-gbcwmd", "f2", 160, 54),
        "caribbean_male": Voice("en-029", "m3", 175, 48),
        "caribbean_female": Voice("en-029", "f4", 195, 57),
    }
)


def speak(text: str, voice: Voice) -> Audio:
    """Mono speech at espeak-ng's own rate (22,050 Hz), silence at its ends included.

    Equal arguments give equal samples, in any process and after any other call. Safe to call from
    several threads, which take turns. Raises ``UsageError`` for a voice that espeak-ng lacks and
    ``UnavailableError`` where something else in the process holds espeak-ng loaded.
    """
    # Python runs signal handlers in the main thread alone. Were the callback to run there, Ctrl-C would
    # raise inside it, where ctypes drops both the exception and a piece of the speech.
    with ThreadPoolExecutor(max_workers=1) as own_thread:
        return own_thread.submit(_speak, text, voice).result()


def _speak(text: str, voice: Voice) -> Audio:
    with _ONE_INSTANCE, _fresh_library() as library:
        sample_rate = _initialize(library)
        _select(library, voice)
        samples = _synthesize(library, text)
    return Audio(samples.astype(np.float32) / 32768.0, sample_rate)


@contextmanager
def _fresh_library() -> Iterator[ctypes.CDLL]:
    path = espeakng_loader.get_library_path()
    if _is_loaded(path):
        raise UnavailableError(
            f"{path} is already loaded in this process, so its speech would not be reproducible; "
            "render the audio set in a process that does not use espeak-ng otherwise"
        )
    library = ctypes.CDLL(path)
    try:
        yield library
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def _is_loaded(path: str) -> bool:
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    _ctypes.dlclose(library._handle)
    return True


def _initialize(library: ctypes.CDLL) -> int:
    data = os.fsencode(espeakng_loader.get_data_path())
    sample_rate = int(library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _CALLBACK_BUFFER_MS, data, 0))
    if sample_rate <= 0:
        raise UnavailableError(f"espeak-ng cannot read its data in {data!r}: reinstall espeakng-loader")
    library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
    return sample_rate


def _select(library: ctypes.CDLL, voice: Voice) -> None:
    name = f"{voice.name}+{voice.variant}" if voice.variant else voice.name
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise UsageError(f"espeak-ng has no voice {name!r}; voices of this project: {', '.join(VOICES)}")
    library.espeak_SetParameter(_PARAMETER_RATE, voice.speed_wpm, 0)
    library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)


def _synthesize(library: ctypes.CDLL, text: str) -> np.ndarray:
    chunks: list[np.ndarray] = [np.zeros(0, np.int16)]

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _SynthCallback(collect)  # held here: the library keeps only its address
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode() + b"\0"
    status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
    if status != 0:
        raise UnavailableError(f"espeak-ng failed with status {status} on a text of {len(text)} characters")
    return np.concatenate(chunks)
