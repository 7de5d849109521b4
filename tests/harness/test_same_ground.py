"""Two runs are comparable when nothing but the variant, or a declared subject, differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import ExitCode, NotComparableError
from harness.record import Gpu, Mode, Run
from harness.same_ground import comparability_of, differences, require_comparable
from tests.harness.runs import Recipe, config, provenance, unmeasured


def run(origin=None, **changes) -> Run:
    base = unmeasured(Recipe())
    return replace(base, provenance=origin or base.provenance, config={**base.config, **changes})


def test_equal_ground_has_an_equal_key():
    a = comparability_of(config(Recipe()), provenance())
    b = comparability_of(config(Recipe(variant="compiled")), provenance())
    assert a.key == b.key
    assert a.fields["variant"] == "eager"
    assert a.fields["encoder.name"] == "eager"


@pytest.mark.parametrize(
    ("origin", "field"),
    [
        (replace(provenance(), cpu="Another CPU"), "machine.cpu"),
        (replace(provenance(), packages={"torch": "2.12.0"}), "library.torch"),
        (replace(provenance(), gpus=(Gpu("H100", "580", 80),)), "gpu.driver"),
        (
            replace(provenance(), dataset=replace(provenance().dataset, content_hash="x")),
            "dataset.content_hash",
        ),
        (replace(provenance(), model=replace(provenance().model, weights_hash="x")), "model.weights_hash"),
    ],
)
def test_another_ground_has_another_key_and_is_named(origin, field):
    a, b = run(), run(origin)
    assert field in [difference.field for difference in differences(a, b)]
    assert comparability_of(a.config, a.provenance).key != comparability_of(b.config, b.provenance).key
    with pytest.raises(NotComparableError, match="--subject") as raised:
        require_comparable(a, b)
    assert raised.value.exit_code is ExitCode.NOT_COMPARABLE


@pytest.mark.parametrize("axis", ["encoder", "decoder", "batching", "topology", "ipc", "io", "gc"])
def test_the_variants_own_axes_are_the_subject_anyway(axis):
    assert differences(run(), run(**{axis: {"name": "other", "options": {"depth": 2}}})) == ()


def test_a_run_from_before_front_ends_and_families_had_names_compares_with_one_from_after():
    base = run().config
    named = {"frontend": {"name": "host", **base["frontend"]}, "model": {"family": "tdt", **base["model"]}}
    assert differences(run(), run(**named, batching={"name": "alone"})) == ()
    other = {"frontend": {"name": "device", **base["frontend"]}}
    assert [d.field for d in differences(run(), run(**other))] == ["frontend.name"]


def test_a_declared_subject_covers_what_lies_below_it():
    a, b = run(), run(frontend={"vad": {"name": "silero", "threshold": 0.3}})
    assert [d.field for d in differences(a, b)] == ["frontend.vad.name", "frontend.vad.threshold"]
    assert differences(a, b, ["frontend.vad"]) == ()
    assert differences(a, b, ["frontend.vad.name"]) != ()


def test_where_results_are_kept_and_how_many_processes_ran_is_no_difference():
    other = {"processes": 9, "results_dir": "/elsewhere", "threads": 1}
    assert differences(run(), run(runner=other)) == ()
    assert differences(run(), run(runner={**other, "threads": 2})) != ()


def test_open_and_closed_loops_are_never_comparable():
    with pytest.raises(NotComparableError, match=r"workload\.mode"):
        require_comparable(run(), replace(run(), mode=Mode.OPEN))
