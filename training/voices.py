"""Who speaks in training, and who is kept out of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.corpus.speech import VOICES, Voice

#: Kept out: an accent that training never hears, and a timbre that it never hears.
HELD_OUT = ("lancaster_male", "rp_female")

_ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-029")
_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Reed", "Storm", "adam", "anika", "antonio"),
    *("belinda", "benjamin", "caleb", "david", "ed", "edward", "edward2", "grandma", "grandpa", "ian"),
    *("john", "linda", "max", "mike2", "pablo", "paul", "quincy", "rob", "robert", "shelby", "steph"),
    *("steph2", "steph3", "travis", "victor", "zac"),
)
_SPEEDS_WPM = (130, 225)
_PITCHES = (28, 72)
_JITTER_WPM = 15
_JITTER_PITCH = 5


def training_voices() -> tuple[Voice, ...]:
    """The project's voices except those held out, then every accent with other timbres in turn."""
    named = [voice for name, voice in VOICES.items() if name not in HELD_OUT]
    rng = np.random.default_rng(0)
    drawn = [
        Voice(
            _ACCENTS[index % len(_ACCENTS)],
            variant,
            int(rng.integers(_SPEEDS_WPM[0], _SPEEDS_WPM[1] + 1)),
            int(rng.integers(_PITCHES[0], _PITCHES[1] + 1)),
        )
        for index, variant in enumerate(_VARIANTS * 2)
    ]
    return (*named, *drawn)


def held_out_voices() -> tuple[Voice, ...]:
    return tuple(VOICES[name] for name in HELD_OUT)


def pick_voice(voices: Sequence[Voice], rng: np.random.Generator) -> Voice:
    """One of ``voices``, a little faster or slower, higher or lower than it is written."""
    voice = voices[int(rng.integers(len(voices)))]
    speed = voice.speed_wpm + int(rng.integers(-_JITTER_WPM, _JITTER_WPM + 1))
    pitch = voice.pitch + int(rng.integers(-_JITTER_PITCH, _JITTER_PITCH + 1))
    return Voice(voice.name, voice.variant, speed, pitch)
