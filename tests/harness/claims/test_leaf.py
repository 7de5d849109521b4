"""The leaves of conf/claims: every claim of the table, its pair, its rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.claims.leaf import Leaf, read_leaf, read_leaves
from harness.config.load import compose_run
from harness.config.rules import check
from harness.errors import UsageError
from harness.same_ground import VARIANT_AXES
from tests.harness.machines import Workstation

LEAVES = read_leaves()


def test_every_claim_of_the_table_has_a_leaf() -> None:
    assert list(LEAVES) == list(range(1, 10))


@pytest.mark.parametrize("number", LEAVES)
def test_both_sides_can_be_measured(number: int) -> None:
    """One side as it is and the other as --quick has it: composing takes a while."""
    leaf = LEAVES[number]
    for side in (leaf.pair()[0], leaf.pair(quick=True)[1]):
        check(compose_run(side), Workstation())


@pytest.mark.parametrize("number", LEAVES)
def test_the_sides_differ_in_the_variant_alone(number: int) -> None:
    leaf = LEAVES[number]
    assert leaf.baseline != leaf.candidate
    own = {override.partition("=")[0] for override in (*leaf.baseline, *leaf.candidate)}
    assert own <= set(VARIANT_AXES)


@pytest.mark.parametrize("number", LEAVES)
def test_a_claim_is_measured_or_says_what_is_missing(number: int) -> None:
    leaf = LEAVES[number]
    assert bool(leaf.metrics or leaf.within) != bool(leaf.not_built)


def test_overrides_of_the_command_line_are_the_last_word() -> None:
    baseline, candidate = LEAVES[6].pair(["workload.requests=200"], quick=True)
    for side in (baseline, candidate):
        assert [o for o in side if o.startswith("workload.requests=")] == ["workload.requests=200"]
    assert "variant=threads" in baseline
    assert "variant=epoll" in candidate


def test_the_rule_is_said_in_words() -> None:
    assert "reproduced: span.decoder.p50 at most 0.5 of the baseline's. Partly:" in LEAVES[4].rule
    assert "100 ms or more below the baseline's" in LEAVES[5].rule
    assert "or the baseline cannot serve" in LEAVES[6].rule
    assert "at most 1.25 of the baseline's and at least 0.8" in LEAVES[7].rule
    assert LEAVES[1].rule == "reproduced: 20 h of audio in at most 10 s. Partly: in at most 30 s"


LEAF = """\
claim: a claim
baseline: [variant=eager]
candidate: [variant=collapsed]
holds: [{metric: latency.p50, at_most: 0.5}]
partly: [{metric: latency.p50, at_most: 0.9}]
"""


@pytest.mark.parametrize(
    ("was", "becomes", "names"),
    [
        ("claim: a claim", "claim: [", "not YAML"),
        ("claim: a claim", "", "'claim' is missing"),
        ("holds:", "hold:", "'hold'"),
        ("latency.p50, at_most: 0.5", "latency.p50, at_most: half", r"holds\[0\].at_most"),
        ("latency.p50, at_most: 0.5", "speed, at_most: 0.5", "speed"),
        (", at_most: 0.9", "", "needs at_most, at_least or saves_s"),
        ("partly: [{metric: latency.p50, at_most: 0.9}]", "", "'partly'"),
        ("baseline: [variant=eager]", "", "'baseline'"),
    ],
)
def test_a_mistake_in_a_leaf_is_named(tmp_path: Path, was: str, becomes: str, names: str) -> None:
    path = tmp_path / "12.yaml"
    path.write_text(LEAF)
    assert read_leaf(path).claim == "a claim"
    path.write_text(LEAF.replace(was, becomes))
    with pytest.raises(UsageError, match=names) as error:
        read_leaf(path)
    assert "12.yaml" in str(error.value)


def test_what_is_not_built_needs_no_rule() -> None:
    leaf = replace(LEAVES[4], holds=(), partly=(), not_built="a part")
    assert isinstance(leaf, Leaf)
    assert leaf.rule == "none yet"
