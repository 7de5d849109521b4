"""The front end on the device, whole: the host's segments, words and bounds, for recordings of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import soxr

from harness.config.load import compose_run
from harness.config.rules import check
from harness.errors import UsageError
from harness.protocols import Segment, Transcript, Work
from harness.protocols.engine import ignore
from harness.run.session import RunSession, as_reference
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE, Encoding, encode, noise, speech, wav
from tests.harness.machines import Laptop
from tests.variants.eager_parts import eager_parts
from variants.batching import continuous
from variants.frontend import device, host
from variants.frontend.config import FrontendConfig, SegmentConfig
from variants.frontend.device.stages import DeviceStages
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder
from variants.topology.item import Item
from variants.topology.roles import FrontendRole, InferenceRole


@cache
def model() -> TdtModel:
    built = build(ModelOptions(name="parakeet_tiny", weights="embedded", device="cpu"))
    return dataclasses.replace(built, features_on="device")


def served(**options: object) -> EncoderDecoder:
    stages = device.on_device(device.Options(**options), model())  # type: ignore[arg-type]
    return dataclasses.replace(eager_parts(model()), frontend=stages)


def decoded(payload: bytes) -> list[Segment]:
    return device.build(device.Options(isolate_decoder=False))(payload, SpanRecorder())


def cut(payload: bytes, **options: object) -> list[Segment]:
    """The host's segments."""
    config = FrontendConfig(isolate_decoder=False, **options)  # type: ignore[arg-type]
    return host.build(config)(payload, SpanRecorder())


def turn() -> np.ndarray:
    quiet = noise(1.0, peak=5e-4)
    return np.concatenate([quiet, speech(), quiet, quiet, speech(), quiet])


def container(rate: int, samples: np.ndarray) -> bytes:
    given = soxr.resample(samples, RATE, rate)
    return wav(given, rate) if rate == RATE else encode(given, Encoding("flac", "flac", rate))


@cache
def payloads() -> list[bytes]:
    """Of three rates, one of them twice; two are all speech, one is silent, one hardly there."""
    sounds = [(RATE, turn()), (48_000, turn()[RATE:]), (22_050, speech()), (48_000, speech())]
    scraps = [(RATE, np.zeros(RATE, np.float32)), (RATE, noise(0.01)[:50])]
    return [container(rate, samples) for rate, samples in [*sounds, *scraps]]


@pytest.mark.parametrize("denoise", ["none", "webrtc"])
@pytest.mark.parametrize("vad", ["silero", "none"])
@pytest.mark.parametrize("limit_s", [30.0, 1.3])
def test_every_recording_is_cut_where_the_host_cuts_it(vad: str, limit_s: float, denoise: str) -> None:
    segmentation = SegmentConfig(max_segment_s=limit_s)
    stages = DeviceStages(device.Options(vad=vad, denoise=denoise, segment=segmentation), model())
    found = stages([decoded(payload) for payload in payloads()], SpanRecorder())
    for bounds, payload in zip(found.bounds, payloads(), strict=True):
        expected = cut(payload, vad=vad, denoise=denoise, segment=segmentation)
        positions = [(round(start * RATE), round(end * RATE)) for start, end in bounds]
        starts = [round(each.start_s * RATE) for each in expected]
        assert positions == [(s, s + len(each.samples)) for s, each in zip(starts, expected, strict=True)]


def test_a_batch_of_unlike_recordings_is_transcribed_as_the_host_s_segments() -> None:
    expected = eager_parts(model()).transcribe([cut(payload) for payload in payloads()], SpanRecorder())
    spans = SpanRecorder()
    found = served().transcribe([decoded(payload) for payload in payloads()], spans)
    assert [each.text for each in found] == [each.text for each in expected]
    assert [bool(each.text) for each in found] == [True] * 4 + [False] * 2
    assert [span.name for span in spans.spans][:4] == ["resample", "vad", "segment", "features"]


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (container(RATE, speech()), np.int16),
        (container(44_100, speech()), np.int16),
        (encode(speech(), Encoding("wav", "pcm_f32le", RATE)), np.float32),
        (encode(np.stack([speech(), speech() / 3]), Encoding("flac", "flac", RATE, "stereo")), np.float32),
    ],
    ids=["16 bits", "16 bits, resampled later", "float", "the mean of two channels"],
)
def test_samples_travel_as_narrow_as_they_are_exact(payload: bytes, kind: type) -> None:
    (recording,) = decoded(payload)
    assert recording.samples.dtype == kind
    (expected,) = cut(payload, vad="none", sample_rate=recording.sample_rate)
    scale = 2.0**-15 if kind is np.int16 else 1.0
    np.testing.assert_array_equal(recording.samples * np.float32(scale), expected.samples)


def test_evidence_counts_what_went_up_and_what_was_done_there() -> None:
    inference = served()
    recordings = [decoded(payload) for payload in payloads()[:3]]
    inference.transcribe(recordings, SpanRecorder())
    found = inference.evidence()["frontend"]
    assert found["stages"] == ["resample", "vad", "segment", "features"]
    assert (found["batches"], found["recordings"], found["rates"]) == (1, 3, [16_000, 22_050, 48_000])
    own_bytes = sum(segment.samples.nbytes for (segment,) in recordings)
    assert own_bytes <= found["uploaded_bytes"] < own_bytes + 3 * 2 * 8000
    assert found["device"] == "cpu"


def test_a_batch_of_recordings_and_a_stream_pass_one_engine() -> None:
    engine = continuous.build(served(), continuous.Options(max_padding=0.9))
    works = [Work("transcribe", ignore, SpanRecorder(), decoded(payload)) for payload in payloads()[:4]]
    stream = [Work("open", ignore, SpanRecorder(), stream_id=7)]
    stream += [Work("push", ignore, SpanRecorder(), stream_id=7, samples=speech())]
    stream += [Work("commit", ignore, SpanRecorder(), stream_id=7)]
    for work in [*works, *stream]:
        engine.submit(work)
    while engine.step():
        pass
    assert [work.error for work in [*works, *stream]] == [None] * 7
    assert [work.batch_size for work in works] == [4] * 4
    texts = [work.result.text for work in [*works, stream[-1]] if isinstance(work.result, Transcript)]
    assert len(texts) == 5 and all(texts)


@pytest.mark.parametrize("names", [None, ("decode",), ("denoise",), ("vad", "segment")])
def test_front_end_processes_decode_and_the_rest_passes_it_on(names: Sequence[str] | None) -> None:
    """``names`` are the stages of one process of ``microservices``; ``collapsed`` has them all in one."""
    payload = container(48_000, turn())
    role = FrontendRole(device.build(device.Options(isolate_decoder=False)), names, np.empty)
    decodes = names is None or "decode" in names
    given = np.frombuffer(payload, np.uint8) if decodes else decoded(payload)
    passed: list[Item] = []
    role.take(Item("transcribe", 1, 0, given), SpanRecorder(), passed.append)
    answered: list[Item] = []
    inference = InferenceRole(continuous.build(served(), continuous.Options()), {})
    inference.take(passed[0], SpanRecorder(), answered.append)
    inference.step()
    assert role.stages == (["decode"] if decodes else [])
    assert isinstance(answered[0].value, Transcript) and answered[0].value.text
    assert answered[0].segments == 2
    assert len(speech()) * 2 < answered[0].speech_s * RATE < len(turn())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frontend=device"], r"frontend=device with model\.features=host: .* set model\.features=device"),
        (["frontend=device", "model=fixed_cost"], r"frontend=device with model=fixed_cost: .* another model"),
        (["frontend=device", "frontend.vad=webrtc"], r"frontend\.vad=webrtc must be one of none, silero"),
        (["frontend=device", "frontend.sample_rate=8000"], r"works at 16000 Hz"),
        (["frontend=device", "frontend.max_wer_difference=2"], r"max_wer_difference=2.*at most 1"),
    ],
)
def test_what_cannot_be_combined_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(compose_run(overrides), Laptop())


def test_a_model_that_hears_on_the_host_is_refused() -> None:
    with pytest.raises(UsageError, match=r"set model\.features=device"):
        DeviceStages(device.Options(), dataclasses.replace(model(), features_on="host"))


def test_the_reference_stands_behind_the_same_front_end_on_the_host() -> None:
    config = compose_run(["variant=device_frontend", "frontend.segment.padding_s=0.1"])
    expected = compose_run(["frontend=default", "frontend.segment.padding_s=0.1"]).frontend
    assert (config.frontend["denoise"], expected["denoise"]) == ("spectral_gate", "webrtc")
    assert as_reference(config).frontend == expected
    for denoise in ("none", "webrtc"):
        assert device.reference(device.Options(denoise=denoise))["denoise"] == denoise


def test_word_error_rates_are_what_is_compared(tmp_path: object) -> None:
    keep = [f"runner.results_dir={tmp_path}", f"runner.cache_dir={tmp_path}", "dataset.items=1"]
    config = compose_run(["variant=device_frontend", "frontend.max_wer_difference=0.02", *keep])
    with RunSession(config, []) as session:
        tolerance = session.so_far().run.tolerance
    assert (tolerance.kind, tolerance.max_wer_difference) == ("wer", 0.02)
