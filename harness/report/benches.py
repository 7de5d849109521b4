"""What the benchmarks of single parts wrote (``benchmarks``): seconds of a call over its size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UsageError


@dataclass(frozen=True)
class Curve:
    """One variant of a part: every sample in seconds, at each size at which it was measured."""

    name: str
    samples_s: Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """Curves that were measured side by side. ``withheld`` names what gave a wrong answer, by size."""

    title: str
    subtitle: str
    size: str
    curves: Sequence[Curve]
    floor_s: Mapping[float, float] = field(default_factory=dict)
    withheld: Mapping[str, Sequence[float]] = field(default_factory=dict)


def read_bench(path: Path) -> list[Panel]:
    """The panels of a benchmark's JSON. Raises ``UsageError`` naming the file where it is another one, or
    where nothing was timed."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    for mark, read in _READERS.items():
        if isinstance(found, dict) and mark in found:
            try:
                panels = read(found)
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{path}: unfinished, or of another version: no {error} in it") from error
            if not any(panel.curves for panel in panels):
                raise UsageError(f"{path}: nothing in it was timed: run its benchmark to the end")
            return panels
    raise UsageError(f"{path}: not what a benchmark (python -m benchmarks.…) writes with --json")


def _trials(found: Mapping[str, Any]) -> list[Panel]:
    """What ``benchmarks.core`` writes, whatever was timed: a panel's rows by their size."""
    rows = found["trials"]
    where = _made_on(found["provenance"])
    return [
        _panel(title, where, [row for row in rows if row["panel"] == title])
        for title in dict.fromkeys(row["panel"] for row in rows)
    ]


def _panel(title: str, where: str, rows: Sequence[Mapping[str, Any]]) -> Panel:
    """Drawn is the first time of each contender: the one that they are compared by."""
    samples = {
        row["size"]: {
            name: next(iter(measured["samples"].values())) for name, measured in row["contenders"].items()
        }
        for row in rows
    }
    floor_s = {row["size"]: row["floor_s"] for row in rows if row["floor_s"] is not None}
    withheld: dict[str, list[float]] = {}
    for row in rows:
        for name in row["withheld"]:
            withheld.setdefault(name, []).append(row["size"])
    return Panel(title, where, rows[0]["size_name"], _curves(samples), floor_s, withheld)


# ---------------------------------------------------------------- what earlier versions wrote


def _encoders(found: Mapping[str, Any]) -> list[Panel]:
    origin = found["provenance"]
    panels = []
    for batch in sorted({row["batch"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["batch"] == batch]
        samples = {row["length_s"]: _samples(row["encoders"]) for row in rows}
        floor_s = {row["length_s"]: row["floor_s"] for row in rows}
        title = f"Encoders, batch {batch}"
        panels.append(Panel(title, _made_on(origin), "audio length", _curves(samples), floor_s))
    return panels


def _engines(found: Mapping[str, Any]) -> list[Panel]:
    samples = {row["length_s"]: row["samples_s"] for row in found["rows"]}
    withheld: dict[str, list[float]] = {}
    for row in found["rows"]:
        for name in row["invalid"]:
            withheld.setdefault(name, []).append(row["length_s"])
    engines = found["engines"]
    releases = {f"{built['tensorrt']} at level {built['optimization_level']}" for built in engines.values()}
    title = f"TensorRT {', '.join(sorted(releases))}, {found['meta']['layers']} layers, batch 1"
    where = _made_on(found["provenance"])
    if "multi" in engines:
        where += f"; multi: {len(engines['multi']['profiles_frames'])} profiles"
    return [Panel(title, where, "audio length", _curves(samples), withheld=withheld)]


def _decoders(found: Mapping[str, Any]) -> list[Panel]:
    samples = {row["batch"]: _samples(row["decoders"]) for row in found["batches"]}
    lengths = ", ".join(f"{value:g} s" for value in sorted({row["seconds"] for row in found["batches"]}))
    title = f"Decoders, utterances of {lengths}"
    return [Panel(title, _made_on(found["provenance"]), "batch", _curves(samples))]


def _transports(found: Mapping[str, Any]) -> list[Panel]:
    columns = found["samples"]
    samples: dict[float, dict[str, list[float]]] = {}
    for name, size, seconds in zip(
        columns["transport"], columns["audio_s"], columns["handover_s"], strict=True
    ):
        samples.setdefault(size, {}).setdefault(name, []).append(seconds)
    where = str(found["provenance"]["cpu"])
    return [Panel("Handing audio to another process", where, "audio length", _curves(samples))]


_READERS: Mapping[str, Callable[[Mapping[str, Any]], list[Panel]]] = {
    "trials": _trials,
    "engines": _engines,
    "batches": _decoders,
    "samples": _transports,
    "rows": _encoders,
}
"""By a key that tells each kind from those after it."""


def _samples(variants: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    return {name: measured["samples_s"] for name, measured in variants.items()}


def _curves(samples: Mapping[float, Mapping[str, Sequence[float]]]) -> list[Curve]:
    """One for each name, in the order in which they were measured first."""
    names: Iterable[str] = dict.fromkeys(name for measured in samples.values() for name in measured)
    return [
        Curve(name, {size: measured[name] for size, measured in samples.items() if name in measured})
        for name in names
    ]


def _made_on(origin: Mapping[str, Any]) -> str:
    return str(origin.get("gpu") or origin.get("cpu") or "no GPU named")
