"""What the scheduler counts is read from real threads that wait for a core; what is said of it is stated."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.measure.cpu import CpuMeter, disturbances
from harness.record import CpuTime

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no scheduler statistics"
)
SPIN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def spin(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_used_time_is_that_of_the_process():
    meter = CpuMeter()
    spin(0.2)
    found = meter.read()
    assert found is not None
    assert found.used_s > 0.15
    assert 0.0 <= found.stolen_share <= 1.0


def test_threads_that_have_ended_count():
    meter = CpuMeter()
    thread = threading.Thread(target=spin, args=(0.2,))
    thread.start()
    thread.join()
    found = meter.read()
    assert found is not None
    assert found.used_s > 0.15  # the kernel counts ticks of a hundredth of a second, twice rounded down


def test_a_rival_on_the_same_core_is_waited_for():
    allowed = os.sched_getaffinity(0)
    core = {min(allowed)}
    with subprocess.Popen(
        [sys.executable, "-c", SPIN], preexec_fn=lambda: os.sched_setaffinity(0, core)
    ) as rival:
        os.sched_setaffinity(0, core)
        try:
            meter = CpuMeter()
            spin(0.5)
            found = meter.read()
        finally:
            os.sched_setaffinity(0, allowed)
            rival.kill()
    assert found is not None
    assert found.waited_s > 0.05
    assert found.involuntary_switches > 0
    assert any("waited for a core" in text for text in disturbances([found]))


def test_children_count():
    meter = CpuMeter()
    with subprocess.Popen([sys.executable, "-c", SPIN]) as child:
        time.sleep(0.5)
        found = meter.read()
        child.kill()
    assert found is not None
    assert found.used_s > 0.05


def test_a_quiet_machine_has_no_disturbance():
    assert list(disturbances([CpuTime(10.0, 0.01, 3, 0.0), None])) == []


def test_stolen_cores_are_named():
    (text,) = disturbances([CpuTime(10.0, 0.0, 0, 0.0), CpuTime(10.0, 0.0, 0, 0.07)])
    assert "hypervisor" in text
    assert "7%" in text
