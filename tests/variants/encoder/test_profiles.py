"""``single_profile`` and ``multi_profile`` as a user meets them on a machine without TensorRT."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.config.rules import check
from harness.errors import ExitCode, UnavailableError
from harness.protocols import ShapePlan
from tests.variants.encoder.parts import small_model
from variants.encoder import multi_profile, single_profile
from variants.encoder.options import MultiProfile, SingleProfile
from variants.encoder.tensorrt.encoder import make_spec

PLAN = ShapePlan((1.0, 2.0, 5.0, 10.0, 30.0), 8, (0.6, 0.9, 1.4, 2.2, 2.5, 4.0, 7.5))


class NoGpu(Machine):
    compute_capability = None

    def has_package(self, name: str) -> bool:
        return name not in ("tensorrt", "tensorrt_rtx", "onnx")


class OnlyRtx(NoGpu):
    def has_package(self, name: str) -> bool:
        return name == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        ("compiled", ["GPU"]),
        ("single_profile", ["GPU", "'tensorrt'", "'onnx'"]),
        ("multi_profile", ["GPU", "'tensorrt'", "'onnx'"]),
    ],
)
def test_what_this_machine_lacks_is_named(variant: str, missing: list[str]) -> None:
    with pytest.raises(UnavailableError) as error:
        check(compose_run([f"variant={variant}"]), NoGpu())
    assert all(name in str(error.value) for name in missing)


def test_either_tensorrt_will_do() -> None:
    with pytest.raises(UnavailableError) as error:
        check(compose_run(["variant=multi_profile"]), OnlyRtx())
    assert "'onnx'" in str(error.value)
    assert "'tensorrt'" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("variant", ["compiled", "multi_profile"])
def test_the_command_ends_with_3_before_anything_starts(variant: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", f"variant={variant}", f"runner.results_dir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_profile_is_tuned_for_the_longest_input_and_takes_all() -> None:
    grid = single_profile.make_single_grid(PLAN, SingleProfile(), 0.01)
    (profile,) = grid.profiles
    assert (profile.min, profile.opt) == (1, profile.max)
    assert profile.max >= 1001  # the warm-up sends the bucket edge above 7.5 s
    slot = grid.slot(1, 50)
    assert slot is not None
    assert slot.frames == profile.max


def test_one_profile_at_its_own_length_pads_nothing() -> None:
    grid = single_profile.make_single_grid(PLAN, SingleProfile(padding="none"), 0.01)
    slot = grid.slot(3, 50)
    assert slot is not None
    assert (slot.batch, slot.frames) == (3, 50)
    assert grid.slot(1, 5000) is None


def test_several_profiles_follow_the_lengths_without_gaps() -> None:
    grid = multi_profile.make_multi_grid(PLAN, MultiProfile(profiles=3), 0.01)
    assert len(grid.profiles) == 4  # one more for the warm-up's longest clip
    assert grid.profiles[0].min == 1
    assert all(b.min == a.max + 1 for a, b in pairwise(grid.profiles))
    assert all(profile.opt == profile.max for profile in grid.profiles)


def test_unpadded_profiles_are_tuned_for_what_falls_into_them() -> None:
    options = MultiProfile(profiles=1, padding="none")
    grid = multi_profile.make_multi_grid(PLAN, options, 0.01)
    assert grid.profiles[0].opt == 224  # of 2.2 s, the median
    assert not grid.pad


def test_the_engine_gets_the_grid_s_profiles_with_any_batch(tmp_path: Path) -> None:
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(b"graph")
    options = MultiProfile(opt_batch=4, tactic_sources=("CUDNN",))
    grid = multi_profile.make_multi_grid(PLAN, options, 0.01)
    spec = make_spec(small_model(dtype=torch.float16), options, grid, graph)
    assert [shape.frames for shape in spec.profiles] == [(p.min, p.opt, p.max) for p in grid.profiles]
    assert {shape.batch for shape in spec.profiles} == {(1, 4, 8)}
    assert spec.precision == "fp16"
    assert spec.tactic_sources == ("CUDNN",)
    assert spec.profiles[0].features(32)[0] == (1, 32, 1)


@pytest.mark.parametrize(
    ("build", "options"), [(single_profile.build, SingleProfile()), (multi_profile.build, MultiProfile())]
)
def test_a_model_on_the_cpu_is_unavailable(build: Any, options: Any) -> None:
    with pytest.raises(UnavailableError, match="GPU"):
        build(small_model(), options, PLAN)
