from __future__ import annotations

import torch

from variants.encoder.memory import DeviceMemory


def test_what_the_device_lost_is_split_between_torch_and_the_driver() -> None:
    taken = DeviceMemory(used_bytes=900, reserved_bytes=500).since(DeviceMemory(200, 100))
    assert taken == {"torch_bytes": 400, "driver_bytes": 300, "added_bytes": 700}


def test_memory_that_another_process_gave_back_leaves_the_drivers_share_unknown() -> None:
    taken = DeviceMemory(used_bytes=400, reserved_bytes=500).since(DeviceMemory(900, 100))
    assert taken == {"torch_bytes": 400, "driver_bytes": None, "added_bytes": None}


def test_a_cpu_has_no_device_memory() -> None:
    assert DeviceMemory.read(torch.device("cpu")) == DeviceMemory(0, 0)
