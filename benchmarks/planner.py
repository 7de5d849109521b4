"""Which shapes to prepare for a set of recordings, and what they waste.

    python -m benchmarks.planner --manifest MANIFEST.jsonl -k 5 --plot lengths.png

Needs no GPU, torch or TensorRT. ``variants.encoder.planner`` says how it plans.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.command import command, guarded
from harness.errors import ExitCode, UsageError
from variants.encoder.planner import (
    HOP_S,
    AffineCost,
    CostCurve,
    Histogram,
    MeasuredCost,
    Plan,
    equal_width_edges,
    histogram,
    plan,
    segment_shapes,
)


def describe(chosen: Plan, k: int, hop_s: float = HOP_S) -> str:
    """The plan as a table, with what it is expected to waste beside the alternatives."""
    lines = ["profile   from      to     opt  (s)"]
    for i, profile in enumerate(chosen.profiles):
        from_s, to_s, opt_s = (v * hop_s for v in (profile.min, profile.max, profile.opt))
        lines.append(f"{i:7d} {from_s:6.2f}  {to_s:6.2f}  {opt_s:6.2f}")
    rows = [
        (f"planned, {len(chosen.profiles)} profiles", chosen.expected_s),
        (f"equal widths, {k} profiles", chosen.equal_width_s),
        ("one profile", chosen.single_s),
        ("no padding at all", chosen.floor_s),
    ]
    lines += ["", f"{'expected per request':28s}      ms   wasted"]
    lines += [f"{name:28s} {cost * 1e3:7.3f}  {chosen.waste(cost):6.1%}" for name, cost in rows]
    return "\n".join(lines)


def read_lengths_s(path: Path) -> list[float]:
    """Seconds from a manifest (JSON lines with ``duration``) or a text file with one number a line.

    Raises ``UsageError`` naming the line that is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); name a manifest or a file of lengths"
        ) from error
    return [_length_s(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _length_s(line: str, where: str) -> float:
    try:
        value = json.loads(line)
        seconds = float(value["duration"] if isinstance(value, dict) else value)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: neither a number nor a manifest's line with 'duration'") from error
    if not seconds >= 0 or seconds == float("inf"):
        raise UsageError(f"{where}: {seconds} is no length in seconds")
    return seconds


def draw(shapes: Histogram, chosen: Plan, path: Path, hop_s: float = HOP_S) -> None:
    """Lengths as a histogram, the planned edges as lines and the equal widths as faint ones."""
    from harness.report.style import COLORS, QUIET, head, one_panel, save

    figure, axes = one_panel(4.2)
    lengths_s = np.array(shapes.frames) * hop_s
    bins = np.linspace(0, lengths_s[-1], min(80, max(10, len(lengths_s))))
    axes.hist(lengths_s, bins=bins.tolist(), weights=shapes.counts.sum(axis=1), color=COLORS[0])
    for i, edge in enumerate(chosen.edges):
        axes.axvline(edge * hop_s, color=COLORS[1], lw=1.5, label="planned edge" if i == 0 else None)
    for i, edge in enumerate(equal_width_edges(shapes.frames[-1], len(chosen.profiles))):
        axes.axvline(edge * hop_s, color=QUIET, lw=1, ls=":", label="equal width" if i == 0 else None)
    axes.set_xlabel("segment length, s")
    axes.set_ylabel("segments")
    wasted = (
        f"{len(chosen.profiles)} profiles waste {chosen.waste(chosen.expected_s):.1%}, "
        f"equal widths {chosen.waste(chosen.equal_width_s):.1%}, "
        f"one profile {chosen.waste(chosen.single_s):.1%}"
    )
    head(axes, "Lengths of segments", wasted)
    axes.legend(frameon=False)
    save(figure, path, f"--plot {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, print and draw. Returns the exit code; an error is one line on stderr."""
    return guarded(lambda: _plan(_parser().parse_args(arguments)))


def _plan(options: argparse.Namespace) -> int:
    if not options.longest > 0:
        raise UsageError(f"--longest {options.longest:g}: segments are longer than that")
    shapes = histogram(segment_shapes(read_lengths_s(options.manifest), options.longest))
    chosen = plan(shapes, options.k, _cost(options.cost), options.opt)
    print(describe(chosen, options.k))
    if options.plot:
        draw(shapes, chosen, options.plot)
    return int(ExitCode.DONE)


def _cost(path: Path | None) -> CostCurve:
    """Measured points from a JSON file ``[[batch · frames, seconds], …]``, or the built-in model."""
    if path is None:
        return AffineCost()
    try:
        points = tuple((float(work), float(seconds)) for work, seconds in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a JSON list of [batch·frames, seconds] pairs ({error})") from error
    return MeasuredCost(points)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner",
        description="Choose the shape buckets or profiles that waste the least on a set of recordings.",
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="manifest (JSONL with 'duration') or a file of seconds"
    )
    parser.add_argument("-k", type=int, default=5, help="how many profiles at most (default: 5)")
    parser.add_argument("--opt", default="max", choices=("max", "median"), help="what a profile is tuned for")
    parser.add_argument("--longest", type=float, default=30.0, help="seconds after which the front end cuts")
    parser.add_argument("--cost", type=Path, help="measured cost curve: JSON [[batch*frames, seconds], …]")
    parser.add_argument("--plot", type=Path, help="PNG of the lengths and the edges")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
