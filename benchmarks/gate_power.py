"""How often the gate answers, and how often rightly: ``python -m benchmarks.gate_power``.

Runs are drawn from models of a machine's noise and judged by the gate's own functions with its own
rules and budget. Requests have a spread, a few of them stall, each process has a level of its own, and
each round has one that both sides share (one after the other, every process has its own). Printed are
the shares of the answers: same or improved, inconclusive, regression; and how many rounds it took.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.arguments import positive_integer, result_file
from harness.command import command
from harness.corpus.buckets import DEFAULT_EDGES_S, bucket_label
from harness.errors import ExitCode
from harness.files import write_text
from harness.gate import ROUNDS
from harness.gate_decision import decide, judge_rules, looks
from harness.gate_result import Rule
from harness.gate_rules import read_rules
from harness.measure.effects import effects
from harness.paths import conf_dir
from harness.record import (
    MEASURED,
    Comparability,
    Dataset,
    Git,
    Memory,
    Mode,
    Model,
    ProcessRecord,
    Provenance,
    Run,
    StoredRun,
)
from harness.side_by_side import Comparison

REQUESTS = 60
"""Of a process, as ``conf/workload`` has it."""
_SPANS = {"encoder": 0.5, "decoder": 0.3, "features": 0.2}
_ONE_LENGTH_S = (3.0,)
_LENGTHS_S = (0.9, 1.2, 1.5, 1.9, 2.3, 2.7, 3.1, 3.6, 4.2, 5.5, 6.5, 9.0)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms. ``tails`` is Student's t with three degrees of freedom in place of
    the normal distribution; ``drift`` is by how much each round is slower than the one before."""

    request: float = 0.10
    stalls: float = 0.02
    process: float = 0.02
    round: float = 0.06
    tails: bool = False
    drift: float = 0.0
    lengths_s: tuple[float, ...] = _ONE_LENGTH_S


@dataclass(frozen=True)
class Cell:
    """One question: this noise, this true slowdown, so many rounds or processes, judged how."""

    noise: str
    slowdown: float
    rounds: int
    design: str = "looks"
    """``looks`` (the gate's loop), ``rounds`` (a fixed number) or ``apart`` (one run after the other)."""


@dataclass(frozen=True)
class Answers:
    cell: Cell
    trials: int
    answers: Mapping[str, float]
    """Share of ``same``, ``inconclusive`` and ``regression``."""
    mean_rounds: float


NOISES: Mapping[str, Noise] = {
    "normal": Noise(),
    "quiet": Noise(0.025, 0.02, 0.005, 0.015),
    "mixed lengths": Noise(lengths_s=_LENGTHS_S),
    "heavy tails": Noise(tails=True),
    "drift": Noise(drift=0.02),
}
CELLS = (
    *(Cell("normal", slowdown, ROUNDS) for slowdown in (1.0, 1.05, 1.10)),
    *(Cell("quiet", slowdown, ROUNDS) for slowdown in (1.0, 1.05)),
    *(Cell("mixed lengths", slowdown, ROUNDS) for slowdown in (1.0, 1.05, 1.10)),
    Cell("mixed lengths", 1.05, 2 * ROUNDS),
    *(Cell("heavy tails", slowdown, ROUNDS) for slowdown in (1.0, 1.10)),
    *(Cell("drift", slowdown, ROUNDS) for slowdown in (1.0, 1.10)),
    *(Cell("normal", slowdown, rounds, "rounds") for rounds in (3, 5, 8) for slowdown in (1.0, 1.10)),
    *(Cell("normal", 1.0, processes, "apart") for processes in (2, 3, 5, 8)),
)
_QUICK = (Cell("quiet", 1.0, 8), Cell("quiet", 1.10, 8), Cell("normal", 1.0, 2, "apart"))
_RARE = 4
"""How many times as many comparisons a row has in which nothing is worse: false alarms are rare."""


def answers(cell: Cell, trials: int, rules: Sequence[Rule], seed: int = 0) -> Answers:
    trials *= _RARE if cell.slowdown == 1.0 else 1
    rng = np.random.default_rng([seed, *map(ord, cell.noise), round(cell.slowdown * 100), cell.rounds])
    found = [_answer(cell, rules, rng) for _ in range(trials)]
    counted = Counter(answer for answer, _ in found)
    shares = {answer: counted[answer] / trials for answer in ("same", "inconclusive", "regression")}
    return Answers(cell, trials, shares, sum(rounds for _, rounds in found) / trials)


def _answer(cell: Cell, rules: Sequence[Rule], rng: np.random.Generator) -> tuple[str, int]:
    a, b = _runs(NOISES[cell.noise], cell, rng)
    for rounds in looks(cell.rounds) if cell.design == "looks" else (cell.rounds,):
        code = _decision(_first(a, rounds), _first(b, rounds), rules)
        if code is not ExitCode.INCONCLUSIVE:
            break
    return {ExitCode.DONE: "same", ExitCode.REGRESSION: "regression"}.get(code, "inconclusive"), rounds


def _decision(a: StoredRun, b: StoredRun, rules: Sequence[Rule]) -> ExitCode:
    metrics = list(dict.fromkeys(rule.metric for rule in rules))
    comparison = Comparison(a, b, tuple(effects(a, b, metrics)), None, None)
    return decide(judge_rules(rules, comparison), None)[0]


def _first(stored: StoredRun, processes: int) -> StoredRun:
    kept = stored.samples["process"] < processes
    run = replace(stored.run, processes=stored.run.processes[:processes])
    return StoredRun(run, stored.samples[kept], stored.folder)


# ---------------------------------------------------------------- drawing runs


def _runs(noise: Noise, cell: Cell, rng: np.random.Generator) -> tuple[StoredRun, StoredRun]:
    """A baseline and a candidate that is slower by ``cell.slowdown``, of ``cell.rounds`` processes each."""
    which = np.stack([_order(len(noise.lengths_s), rng) for _ in range(cell.rounds)])  # [rounds, requests]
    level = _round_levels(noise, cell.rounds, rng)
    other = level if cell.design != "apart" else _round_levels(noise, cell.rounds, rng)
    return _run(noise, which, level, 1.0, rng), _run(noise, which, other, cell.slowdown, rng)


def _order(recordings: int, rng: np.random.Generator) -> np.ndarray:
    passes = -(-REQUESTS // recordings)
    return np.concatenate([rng.permutation(recordings) for _ in range(passes)])[:REQUESTS]


def _round_levels(noise: Noise, rounds: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, noise.round, rounds) + noise.drift * np.arange(rounds)


def _run(
    noise: Noise, which: np.ndarray, level: np.ndarray, slowdown: float, rng: np.random.Generator
) -> StoredRun:
    rounds, requests = which.shape
    lengths_s = np.asarray(noise.lengths_s)[which]
    of_process = np.exp(level + rng.normal(0, noise.process, rounds))[:, None] * slowdown
    stalled = np.where(rng.random(which.shape) < noise.stalls, rng.uniform(2, 5, which.shape), 1.0)
    # The spans' own noise adds up to that of the request.
    spread = noise.request / float(np.sqrt(sum(share**2 for share in _SPANS.values())))
    spans = {
        name: 0.02
        * lengths_s
        * share
        * of_process
        * stalled
        * np.exp(spread * _standard(noise, which.shape, rng))
        for name, share in _SPANS.items()
    }
    latency_s = np.sum(list(spans.values()), axis=0)
    finished_s = np.cumsum(latency_s, axis=1)
    labels = np.array([bucket_label(length, DEFAULT_EDGES_S) for length in noise.lengths_s])
    columns: dict[str, Any] = {
        "process": np.repeat(np.arange(rounds), requests),
        "phase": MEASURED,
        "index": np.tile(np.arange(requests), rounds),
        "request_id": np.char.add("r", which.ravel().astype(str)),
        "bucket": labels[which.ravel()],
        "audio_s": lengths_s.ravel(),
        "latency_s": latency_s.ravel(),
        "service_s": latency_s.ravel(),
        "rtf": (latency_s / lengths_s).ravel(),
        "dispatched_s": (finished_s - latency_s).ravel(),
        "finished_s": finished_s.ravel(),
        "error": None,
        "text": "",
        "reference_text": None,
        **{f"span_{name}_s": seconds.ravel() for name, seconds in spans.items()},
    }
    return StoredRun(_record(noise, rounds, rng), pd.DataFrame(columns), Path())


def _standard(noise: Noise, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Of standard deviation 1."""
    return rng.standard_t(3, shape) / np.sqrt(3) if noise.tails else rng.normal(0, 1, shape)


def _record(noise: Noise, rounds: int, rng: np.random.Generator) -> Run:
    dataset = Dataset("simulated", "", len(noise.lengths_s), sum(noise.lengths_s))
    origin = Provenance(Git(None, None, ""), "", "", "", 2, {}, dataset, Model("simulated", "", ""))
    peaks = 2**30 * np.exp(rng.normal(0, 0.01, rounds))
    processes = tuple(
        ProcessRecord(i, i, "", 0, block=i, finished=True, memory=Memory(int(peak)))
        for i, peak in enumerate(peaks)
    )
    return Run(
        "simulated", "", Mode.CLOSED, "simulated", {}, origin, Comparability("", {}), "", processes=processes
    )


# ---------------------------------------------------------------- printing


_HEADER = (
    "noise",
    "measured",
    "slower by",
    "comparisons",
    "same",
    "inconclusive",
    "regression",
    "rounds, mean",
)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cells_of(answered: Answers) -> tuple[str, ...]:
    cell = answered.cell
    measured = {
        "looks": f"at most {cell.rounds} rounds",
        "rounds": f"{cell.rounds} rounds",
        "apart": f"{cell.rounds} processes, one run after the other",
    }[cell.design]
    shares = [f"{share:.1%}" for share in answered.answers.values()]
    head = (cell.noise, measured, f"{cell.slowdown - 1:.0%}", str(answered.trials))
    return (*head, *shares, f"{answered.mean_rounds:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate_power", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--trials",
        type=positive_integer,
        default=400,
        help="comparisons of each row, four times as many where nothing is worse",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=positive_integer, default=1, help="rows at once")
    parser.add_argument("--quick", action="store_true", help="a few rows with few rounds")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the shares as JSON")
    options = parser.parse_args(arguments)
    rules = read_rules(conf_dir() / "gate.yaml")
    one = partial(answers, trials=options.trials, rules=rules, seed=options.seed)
    found = []
    print(line(_HEADER), line(["---"] * len(_HEADER)), sep="\n", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for answered in pool.map(one, _QUICK if options.quick else CELLS):
            found.append(answered)
            print(line(cells_of(answered)), flush=True)
    if options.json:
        noises = {name: asdict(noise) for name, noise in NOISES.items()}
        document = {"requests": REQUESTS, "noise": noises, "rows": [asdict(answered) for answered in found]}
        write_text(options.json, json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
