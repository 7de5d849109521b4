"""A Whisper as a run builds it: from a composed configuration to the engine that serves recordings."""

from __future__ import annotations

import pytest

from harness.config.load import compose_run, to_dict
from harness.config.rules import check
from harness.errors import UnavailableError, UsageError
from harness.protocols import Segment, Work
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE
from tests.harness.machines import Workstation
from tests.variants.models.whisper.test_features import sound
from variants import registry


@pytest.mark.parametrize("batching", ["alone", "continuous"])
def test_recordings_are_served_in_packed_windows(batching: str) -> None:
    pytest.importorskip("whisper", reason="needs the extra whisper")
    overrides = ["model=whisper_tiny_en", "model.options.max_tokens=3", f"batching={batching}"]
    parts = to_dict(compose_run([*overrides, "model.layers=1", "model.device=cpu"]))
    engine = registry.service_spec(parts, [3.0], SpanRecorder).make_engine()
    done: list[Work] = []
    segments = (Segment(sound(1.0), RATE, 0.0), Segment(sound(2.0), RATE, 1.5))
    engine.submit(Work("transcribe", done.append, SpanRecorder(), segments))
    while engine.step():
        pass
    (work,) = done
    assert work.error is None
    assert [len(each.tokens) for each in work.result.hypotheses] == [3]  # type: ignore[union-attr]
    evidence = engine.evidence()
    assert evidence["long_form"]["windows"] == 1
    assert (evidence["encoder"]["calls"], evidence["decoder"]["tokens"]) == (1, 3)
    assert evidence["model"]["layers"] == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["encoder=multi_profile"], "encoder=multi_profile serves family tdt"),
        (["decoder=megakernel"], "decoder=megakernel serves family tdt"),
    ],
)
def test_parts_of_another_family_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(compose_run(["model=whisper_large_v3", *overrides]), Workstation())
    with pytest.raises(UsageError, match="decoder=step_graph serves family attention"):
        check(compose_run(["decoder=step_graph"]), Workstation())


def test_a_machine_without_openai_whisper_is_told_what_to_install() -> None:
    class Bare(Workstation):
        def has_package(self, name: str) -> bool:
            return name != "whisper"

    with pytest.raises(UnavailableError, match="'openai-whisper' is not installed"):
        check(compose_run(["model=whisper_base"]), Bare())
