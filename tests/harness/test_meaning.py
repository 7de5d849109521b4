"""An optimization that breaks the model is caught, and its speed withheld."""

from __future__ import annotations

from pathlib import Path

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
    return Forgetful(cpu_synced.build(model, {}, plan))


class Forgetful:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        decoded = self._inner.decode(encoded, state)
        return replace(decoded, hypotheses=[replace(h, tokens=h.tokens[:-1]) for h in decoded.hypotheses])

    def evidence(self) -> Evidence:
        return self._inner.evidence()
'''

SHALLOW_ENCODER = '''\
"""Faster by one layer."""

from collections.abc import Mapping
from typing import Any

from harness.protocols import Encoder, ShapePlan
from variants.encoder import eager
from variants.models.types import TdtModel


def build(model: TdtModel, options: Mapping[str, Any], plan: ShapePlan) -> Encoder:
    del model.encoder.layers[-2]
    return eager.build(model, {}, plan)
'''

LEAF = """\
name: {name}
needs: []
tolerance: {{kind: exact}}
options: {{}}
"""

QUICK = (
    "model=parakeet_tiny", "model.weights=embedded", "workload.requests=12", "runner.warmup.max_passes=2",
)  # fmt: skip
CUTTING = (
    "runner.reference=false frontend.segment.threshold=0.98 frontend.segment.hysteresis=0 "
    "frontend.segment.padding_s=0"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """Broken variants, measured side by side with the eager one, whose answers are their reference: four
    processes load the model, where one after the other each would need another for its reference."""
    folder = tmp_path_factory.mktemp("meaning")
    project = ProjectCopy.make(folder / "project", folder / "cache")
    project.add("variants/decoder/forgetful.py", FORGETFUL_DECODER)
    project.add("conf/decoder/forgetful.yaml", LEAF.format(name="forgetful"))
    project.add("variants/encoder/shallow.py", SHALLOW_ENCODER)
    project.add("conf/encoder/shallow.yaml", LEAF.format(name="shallow"))
    of = {"whole": "", "forgetful": "decoder=forgetful", "shallow": "encoder=shallow", "cut": CUTTING}
    sides = [f"--of={overrides} runner.label={label}" for label, overrides in of.items()]
    places = (f"runner.cache_dir={project.cache}", "--rounds=1")
    done = project.run("-m", "harness.interleave", *sides, *QUICK, *places)
    assert done.returncode == 4, done.stdout + done.stderr
    return project


def labelled(project: ProjectCopy, label: str) -> Path:
    (folder,) = (path for path in project.runs() if read_run(path).run.label == label)
    return folder


@pytest.mark.parametrize("broken", ["forgetful", "shallow"])
def test_a_variant_that_answers_otherwise_is_invalid(project: ProjectCopy, broken: str) -> None:
    run = read_run(labelled(project, broken)).run
    assert run.verdict.status is VerdictStatus.INVALID
    assert {reason.rule for reason in run.verdict.reasons} == {"parity"}
    assert run.parity is not None
    assert run.parity.status is ParityStatus.DIFFERENT
    assert run.parity.differing >= 1


def test_a_front_end_that_cuts_speech_gets_no_speed_verdict(project: ProjectCopy) -> None:
    """Less audio is faster audio. Each run agrees with its own reference; side by side they do not."""
    whole, cut = labelled(project, "whole"), labelled(project, "cut")
    assert read_run(cut).measured["speech_s"].sum() < read_run(whole).measured["speech_s"].sum()

    compared = project.run("-m", "harness.compare", str(whole), str(cut), "--subject", "frontend")
    assert compared.returncode == 4, compared.stdout + compared.stderr
    assert "speed withheld" in compared.stdout
    gated = project.run(
        "-m", "harness.gate", "--baseline", str(whole), "--candidate", str(cut), "--subject", "frontend"
    )
    assert gated.returncode in (4, 5), gated.stdout + gated.stderr


def test_two_front_ends_are_not_compared_by_accident(project: ProjectCopy) -> None:
    compared = project.run(
        "-m", "harness.compare", str(labelled(project, "whole")), str(labelled(project, "cut"))
    )
    assert compared.returncode == 6
    assert "frontend.segment.threshold" in compared.stderr
