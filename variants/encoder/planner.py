"""Which shapes to build: buckets or optimization profiles that cost a set of recordings the least.

A request of ``frames`` feature frames and ``batch`` rows that falls into a profile is padded to the
profile's maximum. ``plan`` chooses the maxima that minimize the expected cost of a request, exactly, by
dynamic programming over the lengths that occur. Compiled graphs and TensorRT profiles use it alike.

    python -m variants.encoder.planner --manifest MANIFEST.jsonl -k 5 --plot lengths.png

Nothing here needs a GPU, torch or TensorRT.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.command import command
from harness.errors import ExitCode, HarnessError, UsageError

HOP_S = 0.01
GRANULE = 8
"""Feature frames per encoder frame: lengths that differ by less cost the encoder the same."""


# ---------------------------------------------------------------- what a shape costs


class CostCurve(Protocol):
    """Expected seconds of one encoder call on ``[batch, features, frames]``, not falling in either."""

    def __call__(self, batch: int, frames: int) -> float: ...


@dataclass(frozen=True, slots=True)
class AffineCost:
    """``base_s + per_frame_s · batch · frames + per_square_s · batch · frames²``.

    The defaults are a least-squares fit, in relative terms, to Parakeet-TDT 0.6B in fp16 as a CUDA graph on
    one H100: 3.50, 4.05, 4.90 and 7.19 ms at batch 1 for 1, 5, 10 and 30 s, 110.4 ms at batch 128 for
    10 s. Only ratios matter to the planner; measure with ``MeasuredCost`` where they differ.
    """

    base_s: float = 3.65e-3
    per_frame_s: float = 6.8e-7
    per_square_s: float = 1.7e-10

    def __call__(self, batch: int, frames: int) -> float:
        return self.base_s + batch * frames * (self.per_frame_s + self.per_square_s * frames)


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """Linear between measured points ``(batch · frames, seconds)``; beyond the last, its last slope.

    A point that is faster than a smaller one is noise: the curve is made not to fall.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise UsageError("a measured cost curve needs two points or more")

    def __call__(self, batch: int, frames: int) -> float:
        work, seconds = np.array(sorted(self.points)).T
        seconds = np.maximum.accumulate(seconds)
        wanted = float(batch * frames)
        if wanted <= work[-1]:
            return float(np.interp(wanted, work, seconds))
        slope = (seconds[-1] - seconds[-2]) / (work[-1] - work[-2])
        return float(seconds[-1] + slope * (wanted - work[-1]))


# ---------------------------------------------------------------- what a set contains


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each shape occurs: ``counts[i, j]`` requests of ``batches[j]`` rows, ``frames[i]`` long."""

    frames: tuple[int, ...]
    batches: tuple[int, ...]
    counts: np.ndarray  # float64 [len(frames), len(batches)]

    @property
    def total(self) -> float:
        return float(self.counts.sum())


def histogram(shapes: Mapping[tuple[int, int], float], granule: int = GRANULE) -> Histogram:
    """From ``{(batch, frames): weight}``; frames are rounded up to a multiple of ``granule``.

    Raises ``UsageError`` when nothing is left to plan for.
    """
    rounded: dict[tuple[int, int], float] = {}
    for (batch, frames), weight in shapes.items():
        if batch > 0 and frames > 0 and weight > 0:
            key = (round_up(frames, granule), batch)
            rounded[key] = rounded.get(key, 0.0) + weight
    if not rounded:
        raise UsageError("no lengths to plan for: the audio set has no recording of a known, positive length")
    rows = tuple(sorted({frames for frames, _ in rounded}))
    columns = tuple(sorted({batch for _, batch in rounded}))
    counts = np.zeros((len(rows), len(columns)))
    for (frames, batch), weight in rounded.items():
        counts[rows.index(frames), columns.index(batch)] = weight
    return Histogram(rows, columns, counts)


def segment_shapes(
    lengths_s: Iterable[float], longest_s: float, hop_s: float = HOP_S
) -> dict[tuple[int, int], float]:
    """``{(1, frames): count}`` of recordings, each a request of its own.

    A recording longer than ``longest_s`` reaches the encoder in pieces: as many whole ones as fit, and
    the rest.
    """
    shapes: dict[tuple[int, int], float] = {}
    longest = max(1, seconds_to_frames(longest_s, hop_s))
    for length_s in lengths_s:
        whole, rest = divmod(seconds_to_frames(length_s, hop_s), longest)
        for frames, count in ((longest, whole), (rest, 1)):
            if frames and count:
                shapes[1, frames] = shapes.get((1, frames), 0.0) + count
    return shapes


def seconds_to_frames(seconds: float, hop_s: float) -> int:
    """Feature frames of ``seconds`` of audio, never too few: centred windows add one."""
    return int(np.ceil(round(seconds / hop_s, 6))) + 1 if seconds > 0 else 0


def round_up(value: int, granule: int) -> int:
    return -(-value // granule) * granule


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True, slots=True)
class Profile:
    """Feature frames from ``min`` to ``max``; TensorRT chooses its kernels for ``opt``."""

    min: int
    opt: int
    max: int

    def __contains__(self, frames: int) -> bool:
        return self.min <= frames <= self.max


@dataclass(frozen=True, slots=True)
class Plan:
    """Profiles that join without gaps from 1 to the longest length, and what they are expected to cost.

    Seconds per request: ``expected_s`` with these profiles, ``floor_s`` if nothing were padded,
    ``single_s`` with one profile for all, ``equal_width_s`` with as many profiles of equal width.
    """

    profiles: tuple[Profile, ...]
    expected_s: float
    floor_s: float
    single_s: float
    equal_width_s: float

    @property
    def edges(self) -> tuple[int, ...]:
        return tuple(profile.max for profile in self.profiles)

    def waste(self, cost_s: float) -> float:
        """The share of ``cost_s`` that padding causes."""
        return 1.0 - self.floor_s / cost_s if cost_s > 0 else 0.0


def plan(shapes: Histogram, k: int, cost: CostCurve, opt: str = "max") -> Plan:
    """At most ``k`` profiles of the least expected cost.

    ``opt`` is ``max`` where requests are padded to the maximum, ``median`` where they run at their own
    length. Fewer than ``k`` are returned when there are fewer lengths. Raises ``UsageError`` for ``k < 1``.
    """
    if k < 1:
        raise UsageError(f"the number of profiles has to be above 0, not {k}")
    if opt not in ("max", "median"):
        raise UsageError(f"opt={opt!r} is none of max, median")
    prices = np.array([[cost(batch, frames) for batch in shapes.batches] for frames in shapes.frames])
    edges = _best_edges(shapes.counts, prices, min(k, len(shapes.frames)))
    return Plan(
        profiles=_profiles(shapes, [shapes.frames[i] for i in edges], opt),
        expected_s=expected_cost_s(shapes, [shapes.frames[i] for i in edges], cost),
        floor_s=float((shapes.counts * prices).sum() / shapes.total),
        single_s=expected_cost_s(shapes, [shapes.frames[-1]], cost),
        equal_width_s=expected_cost_s(shapes, equal_width_edges(shapes.frames[-1], k), cost),
    )


def _best_edges(counts: np.ndarray, prices: np.ndarray, k: int) -> list[int]:
    """Indices of the last length of each bucket. ``best[j]`` is the least total cost of lengths ``..j``.

    One bucket over lengths ``i..j`` costs the sum over batches of (how many) × (price at length j); an
    optimal plan of m buckets ending at j is an optimal plan of m-1 ending before some i (Bellman).
    """
    n = len(counts)
    before = np.vstack([np.zeros(counts.shape[1]), np.cumsum(counts, axis=0)])  # [n + 1, batches]
    whole = np.einsum("jb,jb->j", before[1:], prices)  # buckets 0..j
    part = before @ prices.T  # [i, j]: what lengths before i would cost at j
    span = np.where(np.arange(n)[:, None] <= np.arange(n)[None, :], whole[None, :] - part[:n], np.inf)
    best = span[0].copy()
    choices: list[np.ndarray] = []
    for _ in range(1, k):
        totals = np.concatenate([[0.0], best[:-1]])[:, None] + span  # [i, j], bucket i..j last
        choice = totals.argmin(axis=0)
        choices.append(choice)
        best = np.take_along_axis(totals, choice[None, :], axis=0)[0]
    edges = [n - 1]
    for choice in reversed(choices):
        start = int(choice[edges[-1]])
        if start == 0:
            break
        edges.append(start - 1)
    return edges[::-1]


def _profiles(shapes: Histogram, edges: Sequence[int], opt: str) -> tuple[Profile, ...]:
    made = []
    smallest = 1
    for edge in edges:
        best = edge if opt == "max" else _median(shapes, smallest, edge)
        made.append(Profile(smallest, best, edge))
        smallest = edge + 1
    return tuple(made)


def _median(shapes: Histogram, smallest: int, largest: int) -> int:
    inside = [i for i, frames in enumerate(shapes.frames) if smallest <= frames <= largest]
    if not inside:
        return largest
    weights = np.cumsum(shapes.counts[inside].sum(axis=1))
    return shapes.frames[inside[int(np.searchsorted(weights, weights[-1] / 2))]]


def expected_cost_s(shapes: Histogram, edges: Sequence[int], cost: CostCurve) -> float:
    """Mean seconds per request when each is padded to the first of ascending ``edges`` that holds it."""
    padded = [edges[i] for i in np.searchsorted(edges, shapes.frames)]
    prices = np.array([[cost(batch, frames) for batch in shapes.batches] for frames in padded])
    return float((shapes.counts * prices).sum() / shapes.total)


def equal_width_edges(longest: int, k: int) -> list[int]:
    """``k`` edges that cut ``1..longest`` into equal widths: what one would write by hand."""
    return sorted({max(1, round(longest * (i + 1) / k)) for i in range(k)})


def covering(plan_: Plan, frames: int) -> tuple[Profile, ...]:
    """The plan's profiles, and one more where shapes up to ``frames`` have to be served too."""
    last = plan_.profiles[-1].max
    if frames <= last:
        return plan_.profiles
    return (*plan_.profiles, Profile(last + 1, frames, frames))


# ---------------------------------------------------------------- command


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lengths_s = np.array(shapes.frames) * hop_s
    weights = shapes.counts.sum(axis=1)
    bins = np.linspace(0, lengths_s[-1], min(80, max(10, len(lengths_s))))
    axes.hist(lengths_s, bins=bins.tolist(), weights=weights, color="#4c78a8")
    for i, edge in enumerate(chosen.edges):
        axes.axvline(edge * hop_s, color="#e45756", lw=1.5, label="planned edge" if i == 0 else None)
    for i, edge in enumerate(equal_width_edges(shapes.frames[-1], len(chosen.profiles))):
        axes.axvline(edge * hop_s, color="#888888", lw=1, ls=":", label="equal width" if i == 0 else None)
    axes.set_xlabel("segment length, s")
    axes.set_ylabel("segments")
    axes.set_title(
        f"{len(chosen.profiles)} profiles waste {chosen.waste(chosen.expected_s):.1%}, "
        f"equal widths {chosen.waste(chosen.equal_width_s):.1%}, "
        f"one profile {chosen.waste(chosen.single_s):.1%}"
    )
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # a folder that is missing, a format that nobody draws
        raise UsageError(f"--plot {path}: cannot be written ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, print and draw. Returns the exit code; an error is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if not options.longest > 0:
            raise UsageError(f"--longest {options.longest:g}: segments are longer than that")
        shapes = histogram(segment_shapes(read_lengths_s(options.manifest), options.longest))
        chosen = plan(shapes, options.k, _cost(options.cost), options.opt)
        print(describe(chosen, options.k))
        if options.plot:
            draw(shapes, chosen, options.plot)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
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
        prog="python -m variants.encoder.planner",
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
