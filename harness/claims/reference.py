"""What the committed results of named machines say of a claim, for machines that cannot test it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.claims.leaf import Leaf, Reference
from harness.config.load import compose_run, to_dict
from harness.errors import HarnessError
from harness.measure.effects import Effect
from harness.measure.metrics import ALL
from harness.measure.offline import offline_figures
from harness.measure.stats import Estimate, Resampled, interval, nearest_rank
from harness.measure.text import NOTHING, digits, seconds
from harness.paths import reference_dir
from harness.record import Mode, StoredRun, read_run
from harness.report.benches import Panel, read_bench
from harness.same_ground import VARIANT_AXES
from harness.side_by_side import compare_runs

Row = dict[str, Any]


def reference_rows(leaf: Leaf) -> list[Row]:
    """A table of every machine's figures; empty where nothing was kept (a wheel has none)."""
    folders = sorted(reference_dir().glob("*/"))
    return [row for folder in folders for row in _of_machine(leaf, folder)]


def in_short(rows: Sequence[Row]) -> list[str]:
    """A sentence for each machine and kind of measurement: the range of what was found."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if "times faster" in row:
            found.setdefault(f"on {row['machine']}, {row['measured']}", []).append(row["times faster"])
        else:
            found.setdefault(f"on {row['machine']}: see the table of its figures", [])
    return [f"{what}: {min(of):g} to {max(of):g} times faster" if of else what for what, of in found.items()]


def speedup(before_s: Sequence[float], after_s: Sequence[float]) -> Estimate:
    """Median over median with its 95 % interval, bootstrapped over the rounds that both took turns in."""
    n = len(before_s)
    rounds = Resampled.of(np.zeros(n, dtype=np.int64))
    slow, fast = (rounds.percentile_replicates(np.asarray(s), [0.5])[0] for s in (before_s, after_s))
    low, high = interval(slow / fast, 1)
    return Estimate(nearest_rank(before_s, 0.5) / nearest_rank(after_s, 0.5), low, high, n)


def _of_machine(leaf: Leaf, folder: Path) -> Iterator[Row]:
    wanted = leaf.reference
    for path in sorted(folder.glob(wanted.parts)) if wanted.parts else ():
        for panel in read_bench(path):
            yield from _pairs(panel, wanted, folder.name)
    for pattern in wanted.memory:
        for path in sorted(folder.glob(pattern)):
            yield from _memory(json.loads(path.read_text()), folder.name)
    yield from _runs(leaf, folder) if leaf.within is None else _offline_runs(folder)


# ---------------------------------------------------------------- parts alone


def _pairs(panel: Panel, wanted: Reference, machine: str) -> Iterator[Row]:
    """The pair at each size at which both were timed, or why it was withheld there."""
    curves = {curve.name: curve.samples_s for curve in panel.curves}
    before, after = (curves.get(name, {}) for name in (wanted.baseline, wanted.candidate))
    beside = curves.get(wanted.beside or "", {})
    for size in before:
        found: Row = {
            "machine": machine,
            "measured": panel.title,
            "on": panel.subtitle,
            panel.size: f"{size:g}",
        }
        if size in panel.withheld.get(wanted.candidate, ()):
            yield {**found, "withheld": f"{wanted.candidate} gave wrong states"}
        elif size in after:
            found[f"{wanted.baseline} ms"] = _median_ms(before[size])
            if size in beside:
                found[f"{wanted.beside} ms"] = _median_ms(beside[size])
            found[f"{wanted.candidate} ms"] = _median_ms(after[size])
            yield {**found, **_times(speedup(before[size], after[size]))}


def _times(faster: Estimate) -> Row:
    return {"times faster": round(faster.value, 2), "interval": f"[{faster.low:.2f}, {faster.high:.2f}]"}


def _median_ms(seconds: Sequence[float]) -> float:
    return round(nearest_rank(seconds, 0.5) * 1e3, 3)


def _memory(results: Mapping[str, Any], machine: str) -> Iterator[Row]:
    """Device memory of each encoder: its weights, and all that building and running it added."""
    for name, held in results.get("built", {}).items():
        if "failed" not in held:
            layers = results["provenance"]["layers"]
            yield _held(machine, name, layers, held["weights_bytes"], held["added_bytes"])
    for name, engine in results.get("engines", {}).items():
        held, profiles = engine["memory"], len(engine["profiles_frames"])
        beside = held["engine_bytes"] - held["weights_bytes"] + held["activations_bytes"]
        encoder = f"TensorRT {name}, level {engine['optimization_level']}, profiles: {profiles}"
        yield _held(machine, encoder, results["meta"]["layers"], held["weights_bytes"], beside)


def _held(machine: str, encoder: str, layers: int, weights_bytes: int, beside_bytes: int | None) -> Row:
    return {
        "machine": machine,
        "encoder": encoder,
        "layers": layers,
        "weights MiB": round(weights_bytes / 2**20, 1),
        "beside them MiB": "unknown" if beside_bytes is None else round(beside_bytes / 2**20, 1),
    }


# ---------------------------------------------------------------- complete runs


def _runs(leaf: Leaf, folder: Path) -> Iterator[Row]:
    """Runs that were measured side by side and differ as the pair does, compared by the same rules."""
    kept: dict[Path, list[tuple[Path, dict[str, str]]]] = {}
    for path in sorted(folder.glob("*/*/run.json")):
        config = json.loads(path.read_text())["config"]
        kept.setdefault(path.parent.parent, []).append((path.parent, _choices(config)))
    wanted = [_choices(to_dict(compose_run(side))) for side in leaf.pair() if kept]
    for place, runs in kept.items():
        found = [
            next((run for run, choices in runs if choices.items() <= side.items()), None) for side in wanted
        ]
        if found[0] is not None and found[1] is not None:
            yield from _compared(leaf, read_run(found[0]), read_run(found[1]), f"{folder.name}/{place.name}")


def _offline_runs(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("*/*/run.json")):
        if json.loads(path.read_text())["mode"] != Mode.OFFLINE:
            continue
        for each in offline_figures(stored := read_run(path.parent)):
            audio = f"{stored.run.provenance.dataset.name}, {digits(each.audio_s / 3600)} h"
            where = f"{folder.name}/{path.parent.parent.name}"
            wall = seconds(each.wall_s)
            yield {"machine": where, "variant": stored.run.variant, "audio": audio, "wall": wall}


def _compared(leaf: Leaf, a: StoredRun, b: StoredRun, where: str) -> Iterator[Row]:
    try:
        changes = compare_runs(a, b, leaf.metrics).effects
    except HarnessError as error:  # an older record that today's rules refuse is named, not hidden
        yield {"machine": where, "withheld": str(error)}
        return
    for change in changes:
        if change.scope == ALL and not change.is_difference and isinstance(change.change, Estimate):
            yield {
                "machine": where,
                "measured": f"complete requests, {change.metric.name}",
                **_faster(change),
            }


def _faster(change: Effect) -> Row:
    e = change.change
    assert isinstance(e, Estimate)
    if not math.isfinite(e.high):  # too few processes for one between them
        return {"times faster": round(1 / e.value, 2), "interval": NOTHING}
    return _times(Estimate(1 / e.value, 1 / e.high, 1 / e.low, e.n, e.processes))


def _choices(config: Mapping[str, Any]) -> dict[str, str]:
    """The choice of each axis; what a variant is called and which options it takes is beside the point."""
    return {axis: config[axis]["name"] for axis in VARIANT_AXES if axis != "variant" and axis in config}
