"""An optimization that breaks the model is caught, and its speed withheld."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.record import ParityStatus, VerdictStatus, read_run
from tests.harness.project_copy import ProjectCopy

FORGETFUL_DECODER = '''\
"""Faster by one token a segment: it never emits the last."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.protocols import Decoded, EncoderOutput, Evidence, ShapePlan
from variants.decoder import cpu_synced
from variants.models.types import TdtModel


def build(model: TdtModel, options: Mapping[str, Any], plan: ShapePlan) -> "Forgetful":
    return Forgetful(cpu_synced.build(model, options, plan))


class Forgetful:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        decoded = self._inner.decode(encoded, state)
        return replace(decoded, hypotheses=[replace(h, tokens=h.tokens[:-1]) for h in decoded.hypotheses])

    def evidence(self) -> Evidence:
        return self._inner.evidence()
'''

NEGATED_ENCODER = '''\
"""The wrong sign: a defect of an encoder that nothing but its output shows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.protocols import EncoderOutput, Evidence, FeatureBatch, ShapePlan
from variants.encoder import eager
from variants.models.types import TdtModel


def build(model: TdtModel, options: object, plan: ShapePlan) -> "Negated":
    return Negated(eager.build(model, options, plan))


class Negated:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        encoded = self._inner.encode(batch)
        return replace(encoded, values=-encoded.values)

    def evidence(self) -> Evidence:
        return self._inner.evidence()
'''

LEAF = """\
name: {name}
needs: []
tolerance: {{kind: exact}}
"""

QUICK = ("model=parakeet_tiny", "model.weights=embedded", "runner.processes=1", "runner.warmup.max_passes=2")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    folder = tmp_path_factory.mktemp("meaning")
    project = ProjectCopy.make(folder / "project", folder / "cache")
    project.add("variants/decoder/forgetful.py", FORGETFUL_DECODER)
    project.add("conf/decoder/forgetful.yaml", LEAF.format(name="forgetful"))
    project.add("variants/encoder/negated.py", NEGATED_ENCODER)
    project.add("conf/encoder/negated.yaml", LEAF.format(name="negated"))
    return project


STREAMS = ("variant=epoll", "workload=streaming", "workload.lag_budget_s=10", "dataset.items=3")


@pytest.mark.parametrize(
    ("broken", "workload"),
    [
        ("decoder=forgetful", ("workload.requests=12",)),
        # Its own engine would agree with it; the eager encoder's stream of the same chunks does not.
        ("encoder=negated", (*STREAMS, "workload.requests=3", "workload.options.duration_s=1.5")),
    ],
)
def test_a_variant_that_answers_otherwise_is_invalid(
    project: ProjectCopy, broken: str, workload: Sequence[str]
) -> None:
    results = project.root / "results" / broken.partition("=")[2]
    done = project.harness(broken, *workload, *QUICK, f"runner.results_dir={results}")
    assert done.returncode == 4, done.stdout + done.stderr
    (path,) = results.glob("*/run.json")
    run = read_run(path.parent).run
    assert run.verdict.status is VerdictStatus.INVALID
    assert {reason.rule for reason in run.verdict.reasons} == {"parity"}
    assert run.parity is not None
    assert run.parity.status is ParityStatus.DIFFERENT
    assert run.parity.reference == "the eager reference"
    assert run.parity.differing >= 1


def test_a_front_end_that_cuts_speech_gets_no_speed_verdict(project: ProjectCopy) -> None:
    """Less audio is faster audio. Each run agrees with its own reference; side by side they do not."""
    results = project.root / "results" / "vad"
    places = (f"runner.results_dir={results}", "workload.requests=24", "runner.reference=false")
    cutting = (
        "frontend.segment.threshold=0.98",
        "frontend.segment.hysteresis=0",
        "frontend.segment.padding_s=0",
    )
    assert project.harness(*QUICK, *places, "runner.label=whole").returncode == 0
    assert project.harness(*QUICK, *places, *cutting, "runner.label=cut").returncode == 0
    whole, cut = sorted(path.parent for path in results.glob("*/run.json"))
    assert read_run(cut).measured["speech_s"].sum() < read_run(whole).measured["speech_s"].sum()

    compared = project.run("-m", "harness.compare", str(whole), str(cut), "--subject", "frontend")
    assert compared.returncode == 4, compared.stdout + compared.stderr
    assert "speed withheld" in compared.stdout
    gated = project.run(
        "-m", "harness.gate", "--baseline", str(whole), "--candidate", str(cut), "--subject", "frontend"
    )
    assert gated.returncode in (4, 5), gated.stdout + gated.stderr


def test_two_front_ends_are_not_compared_by_accident(project: ProjectCopy) -> None:
    results = project.root / "results" / "vad"
    whole, cut = sorted(path.parent for path in results.glob("*/run.json"))
    compared = project.run("-m", "harness.compare", str(whole), str(cut))
    assert compared.returncode == 6
    assert "frontend.segment.threshold" in compared.stderr
