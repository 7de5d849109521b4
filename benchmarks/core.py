"""What every benchmark of a part does alike.

A benchmark says which contenders do the same job, and yields a ``Trial`` for each size of it. Here

1. each contender's answer is compared with a reference; one that differs is withheld, with the reason, and
   no time of it is shown;
2. the others take turns, each once in a round, so that a drift of the clock reaches all of them;
3. every sample is kept. Figures are nearest ranks with their intervals (``harness.measure.stats``);
4. what is known is written as JSON after each size, for ``python -m harness.report`` to draw.

Takes NumPy and no more, to serve an interpreter that holds TensorRT and little else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.provenance import bench_provenance
from harness.arguments import positive_integer, result_file
from harness.command import guarded
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError
from harness.files import write_text
from harness.measure.stats import Estimate, Measured, nearest_rank, percentiles

SCHEMA = 2
WARM_UPS = 2
"""Rounds before the first that is kept."""

Sample = Mapping[str, float]
"""One call: the seconds that contenders are compared by (a name that ends in ``_s``), then what else
there is to say of it."""


class Contender(Protocol):
    """One way of doing the job of a trial."""

    def agree(self) -> Mapping[str, Any]:
        """How its answer compares with the reference's.

        Raises ``InvalidMeasurementError`` where they differ.
        """
        ...

    def run(self) -> Sample:
        """Do the job once, timed; whatever prepares a call is not part of its time."""
        ...

    def evidence(self) -> Mapping[str, Any]:
        """What it did, asked after it was timed; ``not_engaged`` says why its times are not its own."""
        ...


@dataclass(frozen=True)
class Trial:
    """One size of the job, everything prepared. Trials of one ``panel`` are a chart over their ``size``."""

    panel: str
    size_name: str
    size: float
    contenders: Mapping[str, Contender]
    unit: str = ""
    floor_s: float | None = None
    """What no implementation goes below."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, HarnessError] = field(default_factory=dict)
    """Why a contender that was asked for is not among them."""
    process: int = 0
    """Trials of one size in several processes are one row; its intervals are over the processes."""


@dataclass
class Row:
    """All that is known of one size."""

    panel: str
    size_name: str
    size: float
    unit: str
    floor_s: float | None
    facts: Mapping[str, Any]
    unavailable: dict[str, str]
    withheld: dict[str, str]
    agreement: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    evidence: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    process: dict[str, list[int]] = field(default_factory=dict)
    """Of each sample, in which process it was taken."""

    @classmethod
    def of(cls, trial: Trial) -> Row:
        lacking = {name: str(e) for name, e in trial.missing.items() if isinstance(e, UnavailableError)}
        failed = {name: str(e) for name, e in trial.missing.items() if name not in lacking}
        return cls(
            trial.panel,
            trial.size_name,
            trial.size,
            trial.unit,
            trial.floor_s,
            trial.facts,
            unavailable=lacking,
            withheld=failed,
        )

    def withhold(self, name: str, reason: str) -> None:
        """From here on, and what was measured before."""
        self.withheld[name] = reason
        self.samples.pop(name, None)

    def add(self, name: str, sample: Sample, process: int) -> None:
        self.samples.setdefault(name, []).append(sample)
        self.process.setdefault(name, []).append(process)

    def columns(self, name: str) -> dict[str, list[float]]:
        """A contender's samples by what they are of, in the order of rounds."""
        samples = self.samples[name]
        return {key: [sample[key] for sample in samples] for key in samples[0]}

    def figures(self, name: str) -> dict[str, dict[str, Measured]]:
        """p50 and p95 of each time."""
        return {
            key: dict(zip(("p50", "p95"), percentiles(values, self.process[name], (0.50, 0.95)), strict=True))
            for key, values in self.columns(name).items()
            if key.endswith("_s")
        }

    def document(self) -> dict[str, Any]:
        """In JSON types, by contender what was measured of it."""
        known = {key: value for key, value in vars(self).items() if key not in ("samples", "process")}
        return {**known, "contenders": {name: self._measured(name) for name in self.samples}}

    def _measured(self, name: str) -> dict[str, Any]:
        figures = {
            key: {quantile: asdict(figure) for quantile, figure in found.items()}
            for key, found in self.figures(name).items()
        }
        return {"figures": figures, "samples": self.columns(name), "process": self.process[name]}


class Results:
    """What is known so far, on disk after every change where ``path`` is given."""

    def __init__(self, path: Path | None, provenance: Mapping[str, Any]) -> None:
        self._path = path
        self._document: dict[str, Any] = {"schema": SCHEMA, "provenance": provenance}
        self.rows: dict[tuple[str, float], Row] = {}

    def note(self, **facts: Any) -> None:
        """Add to what the numbers belong to, or to what was built for them."""
        self._document.update(facts)
        self.keep()

    def row(self, trial: Trial) -> Row:
        return self.rows.setdefault((trial.panel, trial.size), Row.of(trial))

    def keep(self) -> None:
        if self._path is not None:
            rows = [row.document() for row in self.rows.values()]
            write_text(self._path, json.dumps({**self._document, "trials": rows}, indent=1) + "\n")


Trials = Callable[[argparse.Namespace, Results], Iterator[Trial]]


# ---------------------------------------------------------------- measuring


def measure(trials: Iterator[Trial], rounds: int, results: Results) -> ExitCode:
    """Compare, time, print and keep every trial. ``INVALID`` where a contender was withheld or not built.

    Raises ``UnavailableError`` where nothing that was asked for could be timed or compared.
    """
    for trial in trials:
        row = results.row(trial)
        faithful = _compared(trial, row)
        _timed(trial, row, faithful, rounds)
        print("\n".join(described(row)), flush=True)
        results.keep()
    rows = results.rows.values()
    if any(row.withheld for row in rows):
        return ExitCode.INVALID
    if not any(row.samples for row in rows):
        reasons = dict.fromkeys(text for row in rows for text in row.unavailable.values())
        raise UnavailableError("; ".join(reasons) or "nothing was asked for")
    return ExitCode.DONE


def _compared(trial: Trial, row: Row) -> dict[str, Contender]:
    """The contenders that agree with the reference."""
    faithful = {}
    for name, contender in trial.contenders.items():
        try:
            row.agreement[name] = contender.agree()
        except InvalidMeasurementError as error:
            row.withhold(name, str(error))
        if name not in row.withheld:
            faithful[name] = contender
    return faithful


def _timed(trial: Trial, row: Row, contenders: Mapping[str, Contender], rounds: int) -> None:
    for index in range(-WARM_UPS, rounds if contenders else 0):
        for name in turn(list(contenders), index):
            sample = contenders[name].run()
            if index >= 0:
                row.add(name, sample, trial.process)
    for name, contender in contenders.items():
        row.evidence[name] = contender.evidence()
        if reason := row.evidence[name].get("not_engaged"):
            row.withhold(name, f"did not engage: {reason}")


def turn(names: Sequence[str], index: int) -> list[str]:
    """The order of round ``index``: forward, then backward, then the same beginning with the next.

    In 2n rounds each of n names comes as often at every place.
    """
    shift = index // 2 % max(1, len(names))
    order = [*names[shift:], *names[:shift]]
    return order[::-1] if index % 2 else order


# ---------------------------------------------------------------- printing


def described(row: Row) -> Iterator[str]:
    """A line for the size, and one for each contender."""
    floor = "" if row.floor_s is None else f"   floor {_ms(row.floor_s)}"
    facts = "".join(f"   {name} {_short(value)}" for name, value in row.facts.items() if _is_scalar(value))
    yield f"{row.panel}: {row.size_name} {row.size:g}{row.unit}{floor}{facts}"
    for name in row.samples:
        (key, found), *_ = row.figures(name).items()
        medians = {each: nearest_rank(values, 0.5) for each, values in row.columns(name).items()}
        others = {each: median for each, median in medians.items() if not each.endswith("_s")}
        told = {**others, **row.agreement[name]}
        agreement = "  ".join(f"{fact} {_short(value)}" for fact, value in told.items())
        times = "  ".join(f"{quantile} {_shown(figure)}" for quantile, figure in found.items())
        yield f"  {name:20s} {key.removesuffix('_s')} {times}   {agreement}"
    for name, reason in {**row.withheld, **row.unavailable}.items():
        yield f"  {name:20s} {'withheld' if name in row.withheld else 'unavailable'}: {reason}"


def _shown(figure: Measured) -> str:
    if not isinstance(figure, Estimate):
        return f"(n={figure.n}, needs {figure.needed})"
    return f"{_ms(figure.value)} [{figure.low * 1e3:.3f}, {figure.high * 1e3:.3f}]"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tell(what: str, done: int = 0, total: int = 0) -> None:
    """A ``BuildProgress`` for whoever waits at the terminal."""
    print(f"{what} {done}/{total}" if total else what, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the command


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """What every benchmark is told."""
    parser.add_argument(
        "--rounds", type=positive_integer, default=rounds, help=f"calls of each contender and size ({rounds})"
    )
    parser.add_argument("--commit", help="git commit of the code, where there is no repository")
    parser.add_argument("--json", type=result_file, help="write every sample here, after each size")


def run(module: str, parser: argparse.ArgumentParser, trials: Trials, given: Sequence[str] | None) -> int:
    """Parse ``given`` (or the command line), measure, and return the exit code."""
    arguments = sys.argv[1:] if given is None else given
    options = parser.parse_args(arguments)
    return run_parsed(module, options, trials, arguments)


def run_parsed(module: str, options: argparse.Namespace, trials: Trials, arguments: Sequence[str]) -> int:
    def action() -> int:
        results = Results(options.json, bench_provenance(module, arguments, options.commit))
        with closing(trials(options, results)) as each:  # type: ignore[type-var]
            return int(measure(each, options.rounds, results))

    return guarded(action)
