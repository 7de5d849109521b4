"""Did this change make it worse? ``python -m harness.gate --baseline B --candidate C``.

Each rule is a non-inferiority test: the candidate may be worse by at most a stated limit. The 95 %
interval of the change decides, not its middle: wholly above the limit is a regression, wholly
below it is a pass, and an interval that straddles the limit proves neither (Piaggio et al. 2012,
CONSORT for non-inferiority trials, figure 1; each side is a test at 2.5 %).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.arguments import result_file
from harness.command import command, guarded
from harness.compare import add_comparison_options, tolerance_of
from harness.comparison import Comparison, compare_runs
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, NotComparableError, UsageError
from harness.files import write_atomically, write_text
from harness.gate_files import junit, markdown
from harness.gate_result import GateResult, Judgement, Outcome, Rule
from harness.measure.change import Change
from harness.measure.cpu import disturbances
from harness.measure.metrics import ALL, WEIGHTED, Kind, Metric, metric
from harness.measure.stats import TooSmall
from harness.paths import conf_dir
from harness.record import Run, read_run

_EXAMPLES = """examples:
  python -m harness.gate --baseline results/main --candidate results/branch
  python -m harness.gate --baseline B --candidate C --thresholds my.yaml --markdown g.md --junit g.xml

exit codes:
  0 the same or improved   2 wrong usage or unreadable file   4 a run is invalid, incomplete or profiled,
  or the outputs differ and the speed is withheld   5 regression   6 not comparable   7 inconclusive
"""

BUCKETS = "buckets"
"""The scope of a rule that holds for each bucket."""


def run_gate(baseline: Path, candidate: Path, rules: Sequence[Rule], **options: Any) -> GateResult:
    """Compare two run folders and decide; ``options`` are those of ``compare_runs``.

    Runs that must not be compared are a result too (exit codes 4 and 6). Raises ``UsageError``
    for a folder that is no run.
    """
    a, b = read_run(baseline), read_run(candidate)
    undecided = GateResult(ExitCode.INTERNAL, "", a.run.run_id, b.run.run_id)
    try:
        comparison = compare_runs(a, b, _unique(rule.metric for rule in rules), **options)
    except (InvalidMeasurementError, NotComparableError) as error:
        return replace(undecided, exit_code=error.exit_code, reason=str(error))
    judgements = tuple(judgement for rule in rules for judgement in judge_rule(rule, comparison))
    code, reason = decide(judgements, comparison.withheld)
    if code is ExitCode.INCONCLUSIVE:
        reason = "; ".join([reason, *_disturbances(a.run), *_disturbances(b.run)])
    return replace(undecided, exit_code=code, reason=reason, judgements=judgements, comparison=comparison)


def _disturbances(run: Run) -> list[str]:
    return [f"in {run.run_id} {what}" for what in disturbances([p.cpu for p in run.processes])]


def judge_rule(rule: Rule, comparison: Comparison) -> list[Judgement]:
    """One judgement per scope that the rule holds for."""
    if comparison.withheld is not None and rule.metric.kind not in (Kind.WER, Kind.MEMORY):
        return []  # the reason is the result's; no speed is judged
    concerned = [c for c in comparison.changes if c.metric == rule.metric and _in_scope(c.scope, rule.scope)]
    if not concerned:
        return [Judgement(rule, rule.scope, Outcome.NOT_MEASURED)]
    return [Judgement(rule, change.scope, outcome_of(change, rule.limit), change) for change in concerned]


def outcome_of(change: Change, limit: float) -> Outcome:
    """Where the interval of the cost lies with respect to ``no change`` and the limit."""
    cost = change.cost
    if isinstance(cost, TooSmall):
        return Outcome.INCONCLUSIVE
    unchanged = 0.0 if change.is_difference else 1.0
    if cost.low > unchanged + limit:
        return Outcome.REGRESSION
    if cost.high > unchanged + limit:
        return Outcome.INCONCLUSIVE
    return Outcome.IMPROVED if cost.high < unchanged else Outcome.SAME


def decide(judgements: Sequence[Judgement], withheld: str | None) -> tuple[ExitCode, str]:
    """The worst finding wins: a regression, withheld speed, a required rule without an answer."""
    regressions = [j for j in judgements if j.outcome is Outcome.REGRESSION]
    if regressions:
        also = "" if withheld is None else f"; speed withheld: {withheld}"
        return ExitCode.REGRESSION, f"regression in {_names(regressions)}{also}"
    if withheld is not None:
        return ExitCode.INVALID, f"speed withheld: {withheld}"
    open_questions = (Outcome.INCONCLUSIVE, Outcome.NOT_MEASURED)
    unanswered = [j for j in judgements if j.rule.required and j.outcome in open_questions]
    if unanswered:
        return ExitCode.INCONCLUSIVE, (
            f"inconclusive in {_names(unanswered)}: measure more requests or processes, "
            "interleaved (python -m harness.interleave)"
        )
    improved = [j for j in judgements if j.outcome is Outcome.IMPROVED]
    if improved:
        return ExitCode.DONE, f"improved in {_names(improved)}, no regression"
    return ExitCode.DONE, "same: no regression within the limits"


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a threshold file. Raises ``UsageError`` that names the file and the key."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); pass a file with --thresholds"
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    rules = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"{path}: needs a list 'rules'; see conf/gate.yaml")
    return tuple(_rule(entry, f"{path}: rules[{i}]") for i, entry in enumerate(rules))


def _rule(entry: Any, where: str) -> Rule:
    known: dict[str, type | tuple[type, ...]] = {
        "metric": str,
        "scope": str,
        "limit": (int, float),
        "required": bool,
    }
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected a mapping with {', '.join(known)}")
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; keys are {', '.join(known)}")
        if not isinstance(value, known[key]) or (key == "limit" and isinstance(value, bool)):
            raise UsageError(f"{where}.{key}: {value!r} has the wrong type")
    if "metric" not in entry or "limit" not in entry:
        raise UsageError(f"{where}: needs 'metric' and 'limit'")
    if entry["limit"] < 0:
        raise UsageError(f"{where}.limit: {entry['limit']} is negative; it is the worsening that is allowed")
    return Rule(
        _metric(entry, where),
        entry.get("scope", ALL),
        float(entry["limit"]),
        bool(entry.get("required", True)),
    )


def _metric(entry: Mapping[str, Any], where: str) -> Metric:
    try:
        return metric(entry["metric"])
    except UsageError as error:
        raise UsageError(f"{where}.metric: {error}") from error


def _in_scope(scope: str, wanted: str) -> bool:
    return scope not in (ALL, WEIGHTED) if wanted == BUCKETS else scope == wanted


def _names(judgements: Sequence[Judgement]) -> str:
    return ", ".join(_unique(f"{j.rule.metric.name} ({j.scope})" for j in judgements))


def _unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded(lambda: _gate(options))


def _gate(options: argparse.Namespace) -> int:
    try:
        result = run_gate(
            options.baseline,
            options.candidate,
            read_rules(options.thresholds),
            subjects=options.subject,
            tolerance=tolerance_of(options),
        )
    except HarnessError as error:
        # A CI job that collects these files must find out there why the gate did not open.
        result = GateResult(error.exit_code, str(error), str(options.baseline), str(options.candidate))
    if options.markdown:
        write_text(options.markdown, markdown(result))
    if options.junit:
        write_atomically(options.junit, lambda file: file.write(junit(result)))
    stream = sys.stdout if result.judgements else sys.stderr
    print(markdown(result) if result.judgements else f"error: {result.reason}", file=stream)
    return int(result.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gate",
        description="Decide whether a candidate run is worse than a baseline run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--baseline", type=Path, required=True, metavar="B", help="folder of the run to hold to"
    )
    parser.add_argument(
        "--candidate", type=Path, required=True, metavar="C", help="folder of the run to judge"
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        default=conf_dir() / "gate.yaml",
        metavar="YAML",
        help="limits per metric and bucket (default: conf/gate.yaml)",
    )
    parser.add_argument("--markdown", type=result_file, metavar="FILE", help="write the result as Markdown")
    parser.add_argument("--junit", type=result_file, metavar="FILE", help="write the result as JUnit XML")
    add_comparison_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
