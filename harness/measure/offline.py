"""What an offline run comes to: how long the whole set took, at what price, and what it waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from harness.measure.metrics import wall_shares_s
from harness.record import MEASURED, ProcessRecord, StoredRun

_ON_DEVICE = ("span_encoder_s", "span_decoder_s")


@dataclass(frozen=True)
class OfflineFigures:
    """Of one process, or the mean of several; None is what could not be observed, or has no price.

    ``wall_s`` is from the first byte read to the last text; ``prepared_s`` what the process needed before
    it (building, warming up), which is in no other figure. ``device_idle_share`` is of the wall time, in
    which neither encoder nor decoder ran; ``batches`` counts batches by their number of recordings.
    """

    audio_s: float
    wall_s: float
    prepared_s: float
    cores_used: float | None
    energy_j: float | None
    usd_per_1000_h: float | None
    device_idle_share: float
    padding_share: float | None
    batches: Mapping[int, int]

    @property
    def rtfx(self) -> float:
        """Seconds of audio a second, and hours an hour."""
        return self.audio_s / self.wall_s

    @property
    def energy_j_per_h(self) -> float | None:
        """Joules an hour of audio."""
        return None if self.energy_j is None else self.energy_j / (self.audio_s / 3600)

    @property
    def mean_batch(self) -> float:
        return sum(size * count for size, count in self.batches.items()) / sum(self.batches.values())


def offline_figures(stored: StoredRun) -> list[OfflineFigures]:
    """Of each process that has answered anything with sound."""
    rows = stored.samples[stored.samples["phase"] == MEASURED]
    of_process = {process.index: rows[rows["process"] == process.index] for process in stored.run.processes}
    return [
        _of_process(stored.run.config, process, of_process[process.index])
        for process in stored.run.processes
        if of_process[process.index].loc[of_process[process.index]["error"].isna(), "audio_s"].sum() > 0
    ]


def _of_process(config: Mapping[str, Any], process: ProcessRecord, rows: pd.DataFrame) -> OfflineFigures:
    answered = rows[rows["error"].isna()]
    wall_s, audio_s = float(wall_shares_s(rows).sum()), float(answered["audio_s"].sum())
    ours = rows[rows["dispatched_s"] >= 0]  # before 0: of a run that was stopped
    own_wall_s = float(wall_shares_s(ours).sum()) if len(ours) else float("inf")
    price_usd = _usd_per_hour(config, process)
    return OfflineFigures(
        audio_s=audio_s,
        wall_s=wall_s,
        prepared_s=float(ours["dispatched_s"].min()) if len(ours) else 0.0,
        cores_used=None if process.cpu is None else process.cpu.used_s / own_wall_s,
        energy_j=process.evidence.get("energy_j") if len(ours) == len(rows) else None,
        usd_per_1000_h=None if price_usd is None else price_usd * 1000 * wall_s / audio_s,
        device_idle_share=1.0 - _on_device_s(answered) / (wall_s * _engines(process)),
        padding_share=process.evidence.get("engine", {}).get("padding", {}).get("share"),
        batches=_batches(answered),
    )


def _usd_per_hour(config: Mapping[str, Any], process: ProcessRecord) -> float | None:
    """Of what the run had: its devices, and the machines around them. Unknown where a price is."""
    cost = config.get("cost", {})
    cluster = process.evidence.get("topology", {}).get("ray", {"hosts": 1, "gpus": 0})
    gpus = max(len(process.telemetry), round(cluster["gpus"]))
    machines = [cost.get("cpu_usd_per_hour")] * cluster["hosts"]
    prices = [*machines, *([cost.get("gpu_usd_per_hour")] * gpus)]
    return None if any(price is None for price in prices) else float(sum(prices))


def _engines(process: ProcessRecord) -> int:
    workers = process.evidence.get("topology", {}).get("workers", ())
    return sum("inference" in worker["name"] for worker in workers) or 1


def _one_of_each_batch(answered: pd.DataFrame) -> pd.DataFrame:
    """A row of each batch: what was computed alone is a batch of its own."""
    return answered[(answered["batch_id"] == 0) | ~answered.duplicated("batch_id")]


def _on_device_s(answered: pd.DataFrame) -> float:
    return float(_one_of_each_batch(answered)[list(_ON_DEVICE)].to_numpy(np.float64).sum())


def _batches(answered: pd.DataFrame) -> dict[int, int]:
    sizes = _one_of_each_batch(answered)["batch_size"].value_counts().sort_index()
    return {int(size): int(count) for size, count in sizes.items()}


def mean_of(found: Sequence[OfflineFigures]) -> OfflineFigures:
    """Batches are counted together."""

    def mean(name: str) -> Any:
        values = [getattr(each, name) for each in found]
        return None if any(value is None for value in values) else float(np.mean(values))

    batches: dict[int, int] = {}
    for each in found:
        for size, count in each.batches.items():
            batches[size] = batches.get(size, 0) + count
    names = [field.name for field in fields(OfflineFigures) if field.name != "batches"]
    return OfflineFigures(**{name: mean(name) for name in names}, batches=batches)
