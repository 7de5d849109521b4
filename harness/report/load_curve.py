"""Throughput against latency over the loads of a sweep: a point for each run, a curve for what is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.measure.metrics import wall_shares_s
from harness.measure.stats import Estimate
from harness.record import Mode, StoredRun
from harness.record.codec import to_json
from harness.report.content import Entry
from harness.report.style import QUIET, colored, head, legend_below, one_panel, seconds_label, sparse_log

_LOADS = {Mode.CLOSED: "clients", Mode.OPEN: "rate_per_s"}
_NAMED_AXES = ("model", "encoder", "decoder", "batching", "topology", "ipc", "io", "gc")


@dataclass(frozen=True)
class Point:
    """A run: its load (clients, or arrivals a second), what it answered a second, and its latency."""

    load: float
    answered_per_s: float
    p50: Estimate
    p95_s: float | None


@dataclass(frozen=True)
class Curve:
    label: str
    points: tuple[Point, ...]


def load_curves(entries: Sequence[Entry]) -> list[Curve]:
    """Runs that differ in nothing but their load, where there are at least two; in the order of the runs."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.drawable and entry.stored.run.mode in _LOADS:
            groups.setdefault(_but_for_load(entry.stored), []).append(entry)
    swept = [group for group in groups.values() if len({_load(entry.stored) for entry in group}) > 1]
    labels = _labels([group[0].stored.run.config for group in swept])
    return [Curve(label, _points(group)) for label, group in zip(labels, swept, strict=True)]


def throughput_latency(curves: Sequence[Curve]) -> Figure:
    """Solid: p95; dashed: p50. A curve that turns up without going right is saturated."""
    figure, axes = one_panel(4.4)
    for curve, color in colored(curves):
        answered = [point.answered_per_s for point in curve.points]
        p50_s = [point.p50.value for point in curve.points]
        p95_s = [math.nan if point.p95_s is None else point.p95_s for point in curve.points]
        axes.plot(answered, p50_s, "--o", color=color, linewidth=1.1, markersize=3.5)
        axes.plot(answered, p95_s, "-o", color=color, linewidth=1.8, markersize=4.5, label=curve.label)
        for point in curve.points:
            axes.annotate(
                f"{point.load:g}", (point.answered_per_s, point.p50.value), xytext=(3, -10),
                textcoords="offset points", fontsize=7, color=QUIET,
            )  # fmt: skip
    axes.set_yscale("log")
    sparse_log(axes.yaxis)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(FuncFormatter(seconds_label))
    axes.set_xlabel("requests answered a second", color=QUIET)
    head(
        axes, "Throughput against latency", "solid: p95, dashed: p50; figures: clients, or arrivals a second"
    )
    legend_below(figure, min(len(curves), 4))
    return figure


def _points(group: Sequence[Entry]) -> tuple[Point, ...]:
    found = []
    for entry in sorted(group, key=lambda each: _load(each.stored)):
        overall, rows = entry.summary.overall, entry.stored.measured
        p50, p95 = (None, None) if overall is None else (overall.latency["p50"], overall.latency["p95"])
        if isinstance(p50, Estimate):
            p95_s = p95.value if isinstance(p95, Estimate) else None
            found.append(Point(_load(entry.stored), len(rows) / wall_shares_s(rows).sum(), p50, p95_s))
    return tuple(found)


def _load(stored: StoredRun) -> float:
    return float(stored.run.config["workload"].get(_LOADS[stored.run.mode], 1))


def _but_for_load(stored: StoredRun) -> str:
    config: dict[str, Any] = to_json(stored.run.config)
    load = _LOADS[stored.run.mode]
    # How many requests, and the threads that send them, follow the load and change nothing else.
    follow = (load, "requests", *(("clients",) if load == "rate_per_s" else ()))
    config["workload"] = {key: value for key, value in config["workload"].items() if key not in follow}
    config.pop("runner", None)
    return json.dumps(config, sort_keys=True)


def _labels(configs: Sequence[Any]) -> list[str]:
    """The variant, and the choice of each axis in which curves of it differ."""
    differing = [
        axis for axis in _NAMED_AXES if len({json.dumps(to_json(each.get(axis))) for each in configs}) > 1
    ]
    return [
        " · ".join([each["variant"], *(f"{axis}={each[axis]['name']}" for axis in differing)])
        for each in configs
    ]
