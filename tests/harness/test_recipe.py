"""The README's recipe: a new decoder is three files, and the harness finds it."""

from __future__ import annotations

from pathlib import Path

from harness.record import ParityStatus, VerdictStatus, read_run
from tests.harness.project_copy import ProjectCopy

TOY_DECODER = '''\
"""The host-driven decoder under another name, which counts its batches."""

from dataclasses import dataclass
from typing import Any

from harness.protocols import Decoded, EncoderOutput, Evidence, ShapePlan
from harness.protocols.options import NoOptions
from variants.decoder import cpu_synced
from variants.models.types import TdtModel


@dataclass(frozen=True)
class Options:
    greeting: str = "hello"
    """What the evidence says."""


def build(model: TdtModel, options: Options, plan: ShapePlan) -> "Toy":
    return Toy(cpu_synced.build(model, NoOptions(), plan), options.greeting)


class Toy:
    def __init__(self, inner: Any, greeting: str) -> None:
        self._inner, self._greeting, self._batches = inner, greeting, 0

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        self._batches += 1
        return self._inner.decode(encoded, state)

    def evidence(self) -> Evidence:
        return {"batches": self._batches, "greeting": self._greeting}
'''

TOY_LEAF = """\
name: toy
needs: []
families: [tdt]
tolerance: {kind: exact}
"""

TOY_TEST = """\
from variants.registry import load


def test_the_registry_finds_it():
    assert load("decoder", "toy").__module__ == "variants.decoder.toy"
"""


def test_a_new_decoder_is_three_files(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path / "project", tmp_path / "cache")
    project.add("variants/decoder/toy.py", TOY_DECODER)
    project.add("conf/decoder/toy.yaml", TOY_LEAF)
    project.add("tests/variants/decoder/test_toy.py", TOY_TEST)

    done = project.harness(
        "decoder=toy",
        "decoder.options.greeting=hi",
        "runner.processes=1",
        "workload.requests=12",
        "runner.warmup.max_passes=2",
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = project.runs()
    run = read_run(folder).run
    assert run.verdict.status is VerdictStatus.VALID
    assert run.evidence["engine"]["decoder"]["greeting"] == "hi"
    assert run.evidence["engine"]["decoder"]["batches"] > 12
    assert run.parity is not None
    assert run.parity.status is ParityStatus.SAME
    assert run.parity.reference == "the eager reference"
    tested = project.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/variants/decoder/test_toy.py")
    assert tested.returncode == 0, tested.stdout
