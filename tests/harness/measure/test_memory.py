"""Peaks of the process tree; nothing where there is nothing to observe."""

from __future__ import annotations

import subprocess
import sys

import psutil

from harness.measure.memory import combine, peak_memory
from harness.record import GpuSample, Memory, Telemetry

MIB = 2**20


def test_the_peak_outlives_the_memory():
    before = psutil.Process().memory_info().rss
    block = bytearray(b"x" * (96 * MIB))
    del block
    after = psutil.Process().memory_info().rss
    peak = peak_memory().rss_bytes
    assert peak is not None
    assert peak > max(before, after) + 90 * MIB


def test_children_count():
    alone = peak_memory().rss_bytes
    script = "x = bytearray(b'x' * 80_000_000); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        together = peak_memory().rss_bytes
        child.communicate("\n")
    assert alone is not None
    assert together is not None
    assert together > alone + 80_000_000


def test_no_torch_no_gpu_figures_and_no_import():
    script = (
        "import sys; from harness.measure.memory import peak_memory; m = peak_memory(); "
        "print(m.gpu_allocated_bytes, m.gpu_reserved_bytes, m.gpu_used_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "None", "None", "False"]


def test_what_the_gpu_used_is_the_peak_of_its_readings():
    readings = (GpuSample(0.0, memory_used_bytes=5), GpuSample(0.5, memory_used_bytes=9), GpuSample(1.0))
    assert peak_memory(telemetry=[Telemetry("A GPU", 0.5, readings)]).gpu_used_bytes == 9


def test_processes_one_after_the_other_do_not_add_up():
    assert combine([Memory(5, None), Memory(7, 3, "processes")]) == Memory(7, 3, "processes")
    assert combine([]) is None
