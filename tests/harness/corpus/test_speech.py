"""Speech depends on its arguments alone."""

from __future__ import annotations

import ctypes
import hashlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import espeakng_loader
import numpy as np
import pytest

from harness.corpus.speech import VOICES, Voice, speak
from harness.errors import UnavailableError, UsageError
from harness.paths import conf_dir
from harness.protocols import Audio

TEXT = "the quick brown fox"
_PRINT_DIGEST = """
import hashlib, sys
from harness.corpus.speech import VOICES, speak
for name in sys.argv[2:]:
    speak("another utterance that must leave no trace", VOICES[name])
print(hashlib.sha256(speak("the quick brown fox", VOICES[sys.argv[1]]).samples.tobytes()).hexdigest())
"""


def _digest(audio: Audio) -> str:
    return hashlib.sha256(audio.samples.tobytes()).hexdigest()


def _digest_in_fresh_process(voice: str, *spoken_before: str) -> str:
    command = [sys.executable, "-c", _PRINT_DIGEST, voice, *spoken_before]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=conf_dir().parent)
    return result.stdout.strip()


@pytest.mark.parametrize("name", VOICES)
def test_every_voice_speaks_audible_mono_at_espeaks_rate(name: str) -> None:
    audio = speak(TEXT, VOICES[name])
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert audio.sample_rate == 22050
    assert 0.8 < audio.duration_s < 4.0
    assert 0.05 < np.abs(audio.samples).max() <= 1.0


def test_voices_all_sound_different() -> None:
    assert len(VOICES) >= 12
    assert len({_digest(speak(TEXT, voice)) for voice in VOICES.values()}) == len(VOICES)


def test_same_arguments_give_same_samples_whatever_was_spoken_before() -> None:
    first = _digest(speak(TEXT, VOICES["us_male_1"]))
    for voice in VOICES.values():
        speak("something else entirely", voice)
    assert _digest(speak(TEXT, VOICES["us_male_1"])) == first


def test_same_arguments_give_same_samples_in_any_process() -> None:
    here = _digest(speak(TEXT, VOICES["rp_female"]))
    assert _digest_in_fresh_process("rp_female") == here
    assert _digest_in_fresh_process("rp_female", "us_male_2", "caribbean_female") == here


def test_threads_take_turns() -> None:
    names = [*VOICES] * 2
    alone = {name: _digest(speak(TEXT, VOICES[name])) for name in VOICES}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: _digest(speak(TEXT, VOICES[name])), names))
    assert together == [alone[name] for name in names]


class Interrupted(Exception):
    pass


def test_an_interruption_raises_and_never_cuts_speech_short() -> None:
    whole = _digest(speak(TEXT, VOICES["gb_male"]))

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for attempt in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 * (1 + attempt % 20))
                spoken = speak(TEXT, VOICES["gb_male"])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
                continue
            except RuntimeError as error:
                # threading.Condition.wait() releases a lock that it has not got back when a signal meets it.
                assert isinstance(error.__context__, Interrupted), error
                interrupted += 1
                continue
            assert _digest(spoken) == whole
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def test_speed_and_pitch_are_heard() -> None:
    slow, fast = (speak(TEXT, Voice("en-us", "m1", speed_wpm=speed)) for speed in (120, 240))
    assert slow.duration_s > 1.5 * fast.duration_s
    low, high = (speak(TEXT, Voice("en-us", "m1", pitch=pitch)) for pitch in (10, 90))
    assert _digest(low) != _digest(high)


def test_no_text_is_no_speech() -> None:
    assert np.abs(speak("", VOICES["gb_male"]).samples).max(initial=0.0) == 0.0


def test_unknown_voice_is_named() -> None:
    with pytest.raises(UsageError, match="atlantean"):
        speak(TEXT, Voice("atlantean"))


@pytest.mark.parametrize(("key", "value"), [("speed_wpm", 1000), ("pitch", -1)])
def test_impossible_speed_or_pitch_is_refused(key: str, value: int) -> None:
    with pytest.raises(UsageError, match=key):
        Voice("en-us", **{key: value})


def test_refuses_to_share_the_library_rather_than_speak_irreproducibly() -> None:
    other_user = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(UnavailableError, match="already loaded"):
            speak(TEXT, VOICES["gb_male"])
    finally:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(other_user._handle))
    assert speak(TEXT, VOICES["gb_male"]).duration_s > 0
