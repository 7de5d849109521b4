"""The figures of an offline run, on runs whose figures are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.measure.energy import EnergyMeter
from harness.measure.offline import mean_of, offline_figures
from harness.measure.summary import summarize
from harness.record import CpuTime, Mode, RunWriter, Sample, StoredRun, Telemetry
from harness.report.content import Entry, offline_rows
from tests.harness.nvml_standin import Card, Nvml
from tests.harness.runs import Recipe, process_record, samples, unmeasured


def offline(folder: Path, *batches: int, shift_s: float = 0.0, **evidence: Any) -> StoredRun:
    """Batches of so many recordings of 36 s, each a second on the device and half a second after the last."""
    (some, *_) = samples(Recipe(), 0)
    rows: list[Sample] = []
    for number, size in enumerate(batches, start=1):
        ended_s = 10.0 + 1.5 * number + shift_s
        row = replace(
            some,
            phase="measured",
            audio_s=36.0,
            scheduled_s=10.0 + shift_s,
            dispatched_s=10.0 + shift_s,
            started_s=10.0 + shift_s,
            finished_s=ended_s,
            spans={"encoder": 0.75, "decoder": 0.25},
            batch_id=number,
            batch_size=size,
        )
        rows += [replace(row, index=len(rows) + n, request_id=f"{number}-{n}") for n in range(size)]
    run = unmeasured(Recipe(mode=Mode.OFFLINE))
    cost = {"cost": {"gpu_usd_per_hour": 2.0, "cpu_usd_per_hour": 1.0}}
    writer = RunWriter.open(folder, replace(run, config={**run.config, **cost}))
    gpu = (Telemetry("a GPU", 0.1, ()),)
    record = replace(
        process_record(0),
        cpu=CpuTime(6.0, 0.0, 0, 0.0),
        evidence={"energy_j": 900.0, **evidence},
        telemetry=gpu,
    )
    with writer.journal(record) as journal:
        for each in rows:
            journal.append(each)
        journal.finish(record)
    return writer.finish(writer.run)


def test_the_whole_wall_time_and_every_batch_once(tmp_path: Path) -> None:
    padding = {"engine": {"padding": {"share": 0.125}}}
    (found,) = offline_figures(offline(tmp_path, 4, 4, 2, **padding))
    assert found.audio_s == pytest.approx(360.0)
    assert found.wall_s == pytest.approx(4.5)
    assert found.rtfx == pytest.approx(80.0)
    assert found.prepared_s == pytest.approx(10.0)
    assert found.device_idle_share == pytest.approx(1 - 3.0 / 4.5)
    assert (found.batches, found.padding_share) == ({2: 1, 4: 2}, 0.125)
    assert found.mean_batch == pytest.approx(10 / 3)
    assert found.cores_used == pytest.approx(6.0 / 4.5)
    assert found.energy_j_per_h == pytest.approx(9000.0)  # 900 J for a tenth of an hour
    assert found.usd_per_1000_h == pytest.approx(3.0 / 80.0 * 1000)
    assert mean_of([found, found]).batches == {2: 2, 4: 4}


def test_two_engines_are_twice_as_much_device(tmp_path: Path) -> None:
    workers = [{"name": name} for name in ("frontend0", "inference0", "inference1")]
    (found,) = offline_figures(offline(tmp_path, 4, 4, 2, topology={"workers": workers}))
    assert found.device_idle_share == pytest.approx(1 - 3.0 / 9.0)


def test_a_cluster_costs_what_its_machines_and_devices_do(tmp_path: Path) -> None:
    cluster = {"ray": {"hosts": 3, "gpus": 6.0}}
    (found,) = offline_figures(offline(tmp_path, 4, 4, 2, topology=cluster))
    assert found.usd_per_1000_h == pytest.approx((3 * 1.0 + 6 * 2.0) / 80.0 * 1000)


def test_what_is_unknown_is_no_figure(tmp_path: Path) -> None:
    stored = offline(tmp_path, 1, shift_s=-20.0)  # all of it that of a run which was stopped
    stored = replace(stored, run=replace(stored.run, config={"cost": {"gpu_usd_per_hour": 2.0}}))
    (found,) = offline_figures(stored)
    assert (found.energy_j, found.usd_per_1000_h, found.padding_share) == (None, None, None)
    assert found.prepared_s == 0.0


def test_energy_is_that_of_the_devices_while_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml, counted = Nvml(Card("GPU-a")), SimpleNamespace(mj=5_000)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda _card: counted.mj  # type: ignore[attr-defined]
    meter = EnergyMeter(nvml)
    counted.mj = 12_500
    assert meter.read_j() == pytest.approx(7.5)
    assert EnergyMeter(Nvml(Card("GPU-a"))).read_j() is None  # it has no counter
    assert EnergyMeter(None).read_j() is None


def test_of_a_foreign_server_only_what_its_client_saw_is_said(tmp_path: Path) -> None:
    stored = offline(tmp_path, 4, 4)
    foreign = replace(stored.run, config={**stored.run.config, "target": {"name": "openai"}})
    ours, theirs = (
        [name for name, _ in offline_rows(Entry(each, summarize(each), "run"))]
        for each in (stored, replace(stored, run=foreign))
    )
    assert theirs == ["audio", "wall", "not in it", "hours an hour"]
    assert {*theirs, "device idle", "cores used", "batches", "price"} <= set(ours)
