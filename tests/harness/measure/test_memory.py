"""Peaks of the process tree; nothing where there is nothing to observe."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from harness.measure.memory import GpuMeter, Held, combine, peak_memory
from harness.record import GpuSample, Memory, Telemetry
from harness.report.content import entries, warnings
from tests.harness.nvml_standin import Card, Nvml
from tests.harness.runs import Recipe, make_run

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
        "print(m.gpu_bytes, m.gpu_allocated_bytes, m.gpu_used_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "None", "None", "False"]


def test_what_the_gpu_used_is_the_peak_of_its_readings():
    readings = (GpuSample(0.0, memory_used_bytes=5), GpuSample(0.5, memory_used_bytes=9), GpuSample(1.0))
    assert peak_memory(telemetry=[Telemetry("A GPU", 0.5, readings)]).gpu_used_bytes == 9


# ---------------------------------------------------------------- what a service holds of the GPU

SERVICE, CHILD, STRANGER = os.getpid(), 2**22 + 1, 2**22 + 2  # beyond the kernel's largest pid


def test_the_drivers_list_says_what_the_service_holds_and_who_else_is_there():
    card = Card("GPU-a", 100)
    meter = GpuMeter(Nvml(card))
    meter.resume()
    card.used, card.processes = 190, {SERVICE: 40, CHILD: 20, STRANGER: 30}
    assert meter.held([SERVICE, CHILD]) == Held(60, "processes", 2)  # a child of nobody is a stranger here
    card.processes = {SERVICE: 40}
    assert meter.held([SERVICE]) == Held(40, "processes", 0)


@pytest.mark.parametrize("listed", [{}, {SERVICE: None}, {7_000_000: 60}])
def test_where_the_list_says_nothing_of_us_it_is_what_the_use_grew_by(listed):
    """A container's NVML lists nobody, or pids of another namespace, or no amounts."""
    card = Card("GPU-a", 100)
    meter = GpuMeter(Nvml(card))
    meter.resume()
    card.used, card.processes = 160, listed
    assert meter.held([SERVICE]) == Held(60, "difference", 0)


def test_what_others_take_between_our_turns_is_not_ours():
    card = Card("GPU-a", 100)
    meter = GpuMeter(Nvml(card), alone=False)
    meter.resume()
    card.used = 160
    meter.pause()
    card.used = 500
    meter.resume()
    card.used = 505
    assert meter.held([SERVICE]) == Held(65, "difference", None)


@pytest.mark.parametrize("before", [Card("GPU-a", 10, {STRANGER: 10}), Card("GPU-a", 1 << 30)])
def test_who_was_there_before_is_a_stranger_even_where_nobody_is_listed(before):
    meter = GpuMeter(Nvml(before))
    meter.resume()
    before.processes = {}
    held = meter.held([SERVICE])
    assert held is not None
    assert (held.method, held.strangers) == ("difference", 1)


def test_strangers_are_told_to_the_reader(tmp_path):
    stored = make_run(tmp_path, Recipe(processes=2, requests=5))
    process = replace(stored.run.processes[1], memory=Memory(1, 60 << 20, "processes", strangers=2))
    shared = replace(stored, run=replace(stored.run, processes=(stored.run.processes[0], process)))
    assert not [w for w in warnings(entries([stored])[0]) if "nvidia-smi" in w]
    (told,) = [w for w in warnings(entries([shared])[0]) if "nvidia-smi" in w]
    assert told.startswith("2 other processes")


def test_processes_one_after_the_other_do_not_add_up():
    assert combine([Memory(5, None), Memory(7, 3, "processes")]) == Memory(7, 3, "processes")
    assert combine([]) is None
