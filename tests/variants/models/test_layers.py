"""``model.layers``: a model cut to its first layers, and said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.config.load import compose_run, to_dict
from harness.config.rules import check
from harness.errors import UsageError
from harness.protocols import FeatureBatch, ShapePlan
from harness.protocols.options import NoOptions
from harness.same_ground import comparability_of
from tests.harness.runs import Recipe, unmeasured
from variants.encoder import eager
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel

BATCH = FeatureBatch(
    np.random.default_rng(0).standard_normal((1, 128, 80), dtype=np.float32), np.array([80], dtype=np.int64)
)


def tiny(weights: str, layers: int | None) -> TdtModel:
    return build(ModelOptions("parakeet_tiny", weights=weights, device="cpu", layers=layers))


def states(model: TdtModel) -> torch.Tensor:
    return eager.build(model, NoOptions(), ShapePlan((1.0,), 1)).encode(BATCH).values


def test_trained_weights_keep_their_first_layers() -> None:
    whole, cut = tiny("embedded", None), tiny("embedded", 2)
    expected: list[torch.Tensor] = []
    whole.encoder.layers[1].register_forward_hook(lambda _module, _inputs, output: expected.append(output))
    states(whole)
    torch.testing.assert_close(states(cut), expected[0])
    assert (cut.provenance["layers"], cut.provenance["of_layers"]) == (2, 8)
    assert "layers" not in whole.provenance


def test_synthetic_weights_are_those_of_a_model_of_that_depth() -> None:
    model = tiny("synthetic", 1)
    assert len(model.encoder.layers) == 1  # type: ignore[arg-type]
    assert (model.provenance["layers"], model.provenance["of_layers"]) == (1, 8)
    assert model.provenance["weights_hash"] != tiny("synthetic", 2).provenance["weights_hash"]


@pytest.mark.parametrize("weights", ["embedded", "synthetic"])
def test_more_layers_than_there_are_is_refused_by_name(weights: str) -> None:
    with pytest.raises(UsageError, match=r"model\.layers=9: the encoder of parakeet_tiny has 8"):
        tiny(weights, 9)


def test_a_model_without_layers_refuses_them() -> None:
    with pytest.raises(UsageError, match=r"model\.layers=2: an external engine has no layers"):
        check(compose_run(["model=fixed_cost", "model.layers=2"]))
    with pytest.raises(UsageError, match=r"model\.layers=0 has to be a whole number of at least 1"):
        check(compose_run(["model.layers=0"]))


def test_a_cut_model_is_comparable_with_the_whole_one_only_if_that_is_the_subject() -> None:
    whole, cut = (to_dict(compose_run(["variant=eager", *more])) for more in ([], ["model.layers=2"]))
    run = unmeasured(Recipe())
    keys = [comparability_of(config, run.provenance).key for config in (whole, cut)]
    assert keys[0] != keys[1]
    assert "model.layers" in comparability_of(cut, run.provenance).fields


def test_reports_print_that_a_model_was_cut() -> None:
    assert compose_run(["model.layers=2"]).model.label == "parakeet_tiny, first 2 layers"
    assert compose_run([]).model.label == "parakeet_tiny"
