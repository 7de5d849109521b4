"""Which devices a run computes on, as CUDA reads its environment, and what the machine says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.nvml import open_nvml, total_use, used_devices, visible_devices
from tests.harness.nvml_standin import Card, Nvml

A, B, C = "GPU-aaaa-1", "GPU-abbb-2", "GPU-cccc-3"
FIRST, SECOND = "MIG-1111", "MIG-2222"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B, C]),
        ("0,1,2", [A, B, C]),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("1", [B]),
        (f"{C},{A}", [C, A]),
        ("GPU-c", [C]),
        ("GPU-a", []),  # of two cards
        ("", []),
        ("-1", []),
        ("0,-1,1", [A]),  # the first that names none hides the rest
        ("0,3,1", [A]),
        ("1,1", [B]),
        ("NoDevFiles", []),
        ("MIG-9999", []),
    ],
)
def test_devices_are_those_that_cuda_enumerates(visible: str | None, expected: list[str]) -> None:
    found = visible_devices(Nvml(Card(A), Card(B), Card(C)), visible)
    assert [device.uuid for device in found] == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [FIRST, B]), ("0", [FIRST]), (SECOND, [SECOND]), (f"{SECOND},{FIRST}", [SECOND, FIRST])],
)
def test_a_divided_card_is_seen_as_its_instances(visible: str | None, expected: list[str]) -> None:
    divided = Card(A, instances=(Card(FIRST), Card(SECOND)))
    assert [device.uuid for device in visible_devices(Nvml(divided, Card(B)), visible)] == expected


def test_a_run_uses_the_first_that_it_sees() -> None:
    nvml = Nvml(Card(A), Card(B))
    assert [device.uuid for device in used_devices(nvml, {"CUDA_VISIBLE_DEVICES": "1,0"})] == [B]
    assert [device.uuid for device in used_devices(nvml, {})] == [A]
    assert used_devices(nvml, {"CUDA_VISIBLE_DEVICES": ""}) == []
    assert [device.uuid for device in used_devices(nvml, {}, (1, 0))] == [B, A]
    assert [device.uuid for device in used_devices(nvml, {"CUDA_VISIBLE_DEVICES": "1"}, (0, 1))] == [B]


def test_the_use_of_several_devices_adds_up_as_far_as_it_is_told() -> None:
    nvml = Nvml(Card(A, 10, {1: 4, 2: None}), Card(B, 20, {1: 5, 3: 6}))
    use = total_use(nvml, visible_devices(nvml, None))
    assert (use.used_bytes, dict(use.processes)) == (30, {1: 9, 2: None, 3: 6})


def test_the_command_says_what_this_machine_gives() -> None:
    done = subprocess.run([sys.executable, "-m", "harness.nvml"], capture_output=True, text=True)
    with open_nvml() as nvml:
        if nvml is None:
            assert done.returncode == 3
            assert "no driver" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert "driver" in done.stdout
