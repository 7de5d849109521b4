"""Readings of the GPU where there is one, null where there is none."""

from __future__ import annotations

import contextlib

import pynvml
import pytest

from harness.measure import telemetry
from harness.measure.telemetry import THROTTLING, read_gpu, reason_names, sample_gpu
from harness.spans import now_ns


def has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    found = pynvml.nvmlDeviceGetCount() > 0
    pynvml.nvmlShutdown()
    return bool(found)


def test_the_bits_of_nvml_have_names():
    assert reason_names(0) == ()
    assert reason_names(0x4 | 0x40) == ("sw_power_cap", "hw_thermal_slowdown")
    assert reason_names(0x1 | 0x1000) == ("gpu_idle", "0x1000")
    assert "gpu_idle" not in THROTTLING


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_there_is_no_telemetry():
    with sample_gpu(now_ns()) as sampler:
        pass
    assert sampler.result() == ()


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")
def test_a_gpu_is_read_while_the_block_runs():
    with sample_gpu(now_ns(), interval_s=0.01) as sampler:
        pass
    (found,) = sampler.result()
    assert found.samples[0].memory_used_bytes


class OldDevice:
    """The part of NVML that is asked, of a device that knows its power and nothing else."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError = pynvml.NVMLError

    def __getattr__(self, name):
        def unsupported(*_):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        return unsupported

    def nvmlDeviceGetPowerUsage(self, _):
        return 71_500


def test_what_a_device_does_not_offer_is_null():
    reading = read_gpu(OldDevice(), object(), 1.5)
    assert reading.power_w == pytest.approx(71.5)
    assert (reading.time_s, reading.sm_clock_hz, reading.throttle_reasons) == (1.5, None, None)


class Machine(OldDevice):
    """One such device, with a handle as NVML gives it."""

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, _):
        return pynvml.c_nvmlDevice_t()

    def nvmlDeviceGetUUID(self, _):
        return "GPU-1"

    def nvmlDeviceGetName(self, _):
        return "old"


class Broken(Machine):
    def nvmlDeviceGetPowerUsage(self, _):
        raise RuntimeError("no such symbol")


def sampled(monkeypatch, machine):
    monkeypatch.setattr(telemetry, "open_nvml", lambda: contextlib.nullcontext(machine))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with sample_gpu(now_ns(), interval_s=0.01) as sampler:
        pass
    return sampler


def test_each_device_s_readings_are_kept_by_its_name(monkeypatch):
    sampler = sampled(monkeypatch, Machine())
    (found,) = sampler.result()
    assert (found.device, found.uuid, sampler.failure) == ("old", "GPU-1", None)
    assert found.samples[0].power_w == pytest.approx(71.5)


def test_readings_that_fail_are_said(monkeypatch):
    sampler = sampled(monkeypatch, Broken())
    assert sampler.result() == ()
    assert sampler.failure == "RuntimeError: no such symbol"
