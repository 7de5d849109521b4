"""The architecture: NeMo's modules at stated sizes."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from variants.models.parakeet import (
    PARAKEET_TDT_0_6B_V3,
    PARAKEET_TDT_0_6B_V3_PARAMETERS,
    PARAKEET_TINY,
    build_modules,
    check_parameter_count,
    parameter_count,
)


def test_the_large_model_has_its_published_size() -> None:
    modules = build_modules(PARAKEET_TDT_0_6B_V3, initialize=False)
    assert parameter_count(modules) == PARAKEET_TDT_0_6B_V3_PARAMETERS == 627_008_134
    assert parameter_count(modules[:1]) == pytest.approx(608.9e6, rel=1e-3)
    joint = modules[2]
    assert joint.joint_net[-1].out_features == 8198


def test_the_tiny_model_is_tiny_and_of_the_same_family() -> None:
    modules = build_modules(PARAKEET_TINY)
    assert 2e6 < parameter_count(modules) < 10e6
    assert [type(module).__name__ for module in modules] == ["ConformerEncoder", "RNNTDecoder", "RNNTJoint"]


def test_initialization_can_be_left_to_the_caller() -> None:
    assert parameter_count(build_modules(PARAKEET_TINY, initialize=False)) == parameter_count(
        build_modules(PARAKEET_TINY)
    )


def test_another_size_is_refused_by_name() -> None:
    modules = build_modules(PARAKEET_TINY, initialize=False)
    with pytest.raises(HarnessError, match=r"627,008,134.*nemo_toolkit"):
        check_parameter_count(modules, PARAKEET_TDT_0_6B_V3_PARAMETERS)
