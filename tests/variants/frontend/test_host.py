"""The chain: bytes in, segments out, one span a stage, light enough for a process of its own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soxr

from harness.errors import RequestError
from harness.protocols import Segment
from harness.spans import SPAN_NAMES, SpanRecorder, now_ns
from tests.harness.audio.recordings import RATE, VORBIS, Encoding, encode, noise, speech, wav
from variants.frontend.config import FrontendConfig, SegmentConfig
from variants.frontend.host import build as build_frontend
from variants.frontend.stages import evidence_of
from variants.models.features import FeatureConfig, LogMel

CONTAINERS = [
    Encoding("wav", "pcm_s16le", 16000),
    Encoding("flac", "flac", 44100, "stereo"),
    Encoding("mp3", "libmp3lame", 44100),
    Encoding("ipod", "aac", 44100, "stereo"),
    Encoding("webm", "libopus", 48000),
    VORBIS,
]


def turn() -> np.ndarray:
    """A pause, speech, a long pause, speech, a pause, over faint noise."""
    quiet = np.zeros(RATE, np.float32)
    sound = np.concatenate([quiet, speech(), quiet, quiet, speech(), quiet])
    return sound + noise(len(sound) / RATE, peak=5e-4)


def run(payload: bytes, config: FrontendConfig | None = None) -> tuple[list[Segment], list[str]]:
    spans = SpanRecorder()
    segments = build_frontend(config or FrontendConfig())(payload, spans)
    return segments, [span.name for span in spans.spans]


@pytest.mark.parametrize("denoise", ["none", "webrtc"])
@pytest.mark.parametrize("vad", ["none", "webrtc", "silero"])
def test_every_stage_that_is_not_none_is_a_span_in_order(denoise: str, vad: str) -> None:
    payload = wav(soxr.resample(turn(), RATE, 8000), 8000)
    segments, names = run(payload, FrontendConfig(denoise=denoise, vad=vad))
    off = {stage for stage, choice in (("denoise", denoise), ("vad", vad)) if choice == "none"}
    stages = {"decode", "resample", "denoise", "vad", "segment"}
    expected = [name for name in SPAN_NAMES if name in stages - off]
    assert names == expected
    assert segments


@pytest.mark.parametrize("vad", ["webrtc", "silero"])
def test_utterances_apart_become_segments_that_hold_them(vad: str) -> None:
    segments, _ = run(wav(turn()), FrontendConfig(vad=vad))
    spoken_s = len(speech()) / RATE
    assert segments[0].start_s == pytest.approx(1.0, abs=0.5)
    held_s = sum(len(segment.samples) for segment in segments) / RATE
    assert 1.6 * spoken_s < held_s < 2.0 * spoken_s + 2.0


@pytest.mark.parametrize("encoding", CONTAINERS, ids=str)
def test_the_container_hardly_matters(encoding: Encoding) -> None:
    config = FrontendConfig(vad="none")
    (plain,), _ = run(wav(turn()), config)
    (encoded,), _ = run(encode(soxr.resample(turn(), RATE, encoding.rate), encoding), config)
    heard = LogMel(FeatureConfig(), RATE)
    one, other = heard.of(plain.samples), heard.of(encoded.samples)
    frames = min(one.shape[1], other.shape[1])
    assert abs(one.shape[1] - other.shape[1]) <= 7
    voiced = slice(0, 60)  # bins below 2 kHz: what every codec keeps
    correlation = np.corrcoef(one[voiced, :frames].ravel(), other[voiced, :frames].ravel())
    assert correlation[0, 1] > 0.8


@pytest.mark.parametrize("vad", ["webrtc", "silero"])
def test_a_silent_clip_has_no_segments(vad: str) -> None:
    assert run(wav(np.zeros(2 * RATE, np.float32)), FrontendConfig(vad=vad))[0] == []


@pytest.mark.parametrize("samples", [1, 100, 159, 160, 400, 511, 513])
@pytest.mark.parametrize("vad", ["none", "webrtc", "silero"])
def test_the_shortest_clips_are_no_error(vad: str, samples: int) -> None:
    for segment in run(wav(noise(0.1)[:samples]), FrontendConfig(vad=vad, denoise="webrtc"))[0]:
        assert np.isfinite(segment.samples).all()


def test_the_options_reach_the_decoder() -> None:
    left = encode(np.stack([turn(), -turn()]), Encoding("flac", "flac", RATE, "stereo"))
    silent, _ = run(left, FrontendConfig(vad="webrtc"))
    spoken, _ = run(left, FrontendConfig(vad="webrtc", mix="left"))
    assert (len(silent), len(spoken)) == (0, 2)
    with pytest.raises(RequestError, match=r"frontend\.max_channels=1"):
        run(left, FrontendConfig(max_channels=1))


@pytest.mark.parametrize("isolate", [True, False])
def test_what_resampling_took_is_booked_apart(isolate: bool) -> None:
    spans = SpanRecorder()
    payload = encode(soxr.resample(turn(), RATE, 48000), Encoding("flac", "flac", 48000))
    start_ns = now_ns()
    build_frontend(FrontendConfig(vad="none", isolate_decoder=isolate))(payload, spans)
    took_ns = now_ns() - start_ns
    decoding, resampling, *_ = spans.spans
    assert (decoding.name, resampling.name) == ("decode", "resample")
    assert start_ns <= decoding.start_ns < decoding.end_ns == resampling.start_ns < resampling.end_ns
    assert sum(span.end_ns - span.start_ns for span in spans.spans) <= took_ns


def test_a_broken_payload_is_a_request_s_error() -> None:
    with pytest.raises(RequestError, match="truncated"):
        run(wav(turn())[:-10_000])


def test_stages_can_run_in_different_places() -> None:
    """Every joint passes through pickle, as it does between processes."""
    frontend = build_frontend(FrontendConfig(denoise="webrtc"))
    value: object = wav(turn())
    for _, stage in frontend.stages:
        value = stage(pickle.loads(pickle.dumps(value)))
    expected, _ = run(wav(turn()), FrontendConfig(denoise="webrtc"))
    assert isinstance(value, list)
    for got, wanted in zip(value, expected, strict=True):
        assert got.start_s == wanted.start_s
        np.testing.assert_array_equal(got.samples, wanted.samples)


def test_threads_may_share_a_frontend() -> None:
    frontend = build_frontend(FrontendConfig(denoise="webrtc"))
    payloads = [wav(np.roll(turn(), 3000 * shift)) for shift in range(4)]
    alone = [frontend(payload, SpanRecorder()) for payload in payloads]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda payload: frontend(payload, SpanRecorder()), payloads))
    for one, other in zip(alone, together, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left.samples, right.samples)


@pytest.mark.parametrize("vad", ["none", "webrtc", "silero"])
def test_a_process_that_preprocesses_loads_no_model_framework(vad: str) -> None:
    program = (
        "import sys\n"
        "from variants.frontend.host import build as build_frontend\n"
        "from variants.frontend.config import FrontendConfig\n"
        "from harness.spans import SpanRecorder\n"
        f"frontend = build_frontend(FrontendConfig(vad={vad!r}, denoise='webrtc'))\n"
        "frontend(sys.stdin.buffer.read(), SpanRecorder())\n"
        "heavy = {'torch', 'nemo', 'librosa', 'scipy', 'silero_vad', 'omegaconf', 'hydra', 'lightning'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=wav(turn()), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_without_silero_nothing_imports_its_runtime() -> None:
    program = (
        "import sys\n"
        "from variants.frontend.host import build as build_frontend\n"
        "from variants.frontend.config import FrontendConfig\n"
        "build_frontend(FrontendConfig(vad='webrtc'))\n"
        "sys.exit('onnxruntime' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_segment_limit_reaches_the_features() -> None:
    segments, _ = run(wav(turn()), FrontendConfig(vad="webrtc", segment=SegmentConfig(max_segment_s=2.0)))
    assert max(len(segment.samples) for segment in segments) <= 2 * RATE


def test_who_decoded_is_counted_and_why_it_was_pyav() -> None:
    one = encode(noise(1.0), Encoding("mp3", "libmp3lame", RATE))
    frontend = build_frontend(FrontendConfig(vad="none"))
    for payload in (wav(turn()), one, one, encode(noise(1.0, 48000), CONTAINERS[4]), one + one):
        frontend(payload, SpanRecorder())
    assert evidence_of(frontend.stages) == {
        "decoders": {"wav": 1, "soundfile": 2, "pyav": 2},
        "left_to_pyav": {"mp3: something else between its frames": 1},
    }
