"""The gate's decision as files: Markdown for people, JUnit XML for CI servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from harness.compare import effect_cells, notes
from harness.errors import ExitCode
from harness.gate_decision import CONFIDENCE, FALSE_PASS, LOOKS
from harness.gate_result import OPEN_QUESTIONS, GateResult, Judgement, Outcome
from harness.measure.metrics import Kind
from harness.measure.text import NOTHING
from harness.printable import one_line, printable

_TITLES = {
    ExitCode.DONE: "passed",
    ExitCode.INVALID: "invalid measurement",
    ExitCode.REGRESSION: "regression",
    ExitCode.NOT_COMPARABLE: "not comparable",
    ExitCode.INCONCLUSIVE: "inconclusive",
}
_MARKUP = re.compile(r"([\\`*_\[\]<>|&~#!])")
_HEADER = ("metric", "scope", "baseline", "candidate", "C/B", "interval", "p", "limit", "required", "outcome")


def markdown(result: GateResult) -> str:
    lines = [
        f"## Gate: {_title(result)}",
        "",
        _plain(result.reason),
        "",
        f"- baseline {_plain(result.baseline)}",
        f"- candidate {_plain(result.candidate)}",
        f"- exit code {int(result.exit_code)}",
    ]
    if result.judgements:
        lines += [
            "",
            _row(_HEADER),
            _row(["---"] * len(_HEADER)),
            *(_row(_cells(j)) for j in result.judgements),
        ]
        lines.append(
            f"\n> intervals hold at {CONFIDENCE:.2%}, at {LOOKS} looks together at {1 - 2 * FALSE_PASS:.0%}; "
            "p is the chance of such a figure where nothing is worse, all rules and looks counted"
        )
    if result.comparison is not None:
        lines += [f"\n> {_plain(note)}" for note in notes(result.comparison)]
    return "\n".join(lines) + "\n"


def junit(result: GateResult) -> bytes:
    """One test case per judgement, and one for the comparison as a whole."""
    suite = ElementTree.Element("testsuite", name="gate")
    whole = ElementTree.SubElement(suite, "testcase", classname="gate", name="comparison")
    if result.exit_code is not ExitCode.DONE:
        kind = "failure" if result.exit_code in (ExitCode.REGRESSION, ExitCode.INCONCLUSIVE) else "error"
        ElementTree.SubElement(whole, kind, type=_title(result), message=printable(result.reason))
    for judgement in result.judgements:
        _add_case(suite, judgement)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _add_case(suite: ElementTree.Element, judgement: Judgement) -> None:
    name = printable(f"{judgement.rule.metric.name} [{judgement.scope}]")
    case = ElementTree.SubElement(suite, "testcase", classname="gate.rules", name=name)
    text = printable(" | ".join(_cells(judgement)))
    if judgement.outcome is Outcome.REGRESSION:
        ElementTree.SubElement(case, "failure", type="regression", message=text)
    elif judgement.outcome in OPEN_QUESTIONS:
        kind = "failure" if judgement.rule.required else "skipped"
        ElementTree.SubElement(case, kind, type=judgement.outcome.value, message=text)
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _cells(judgement: Judgement) -> Sequence[str]:
    rule, outcome = judgement.rule, judgement.outcome.value
    in_points = rule.metric.kind in (Kind.WER, Kind.FAILURES)
    limit = f"+{rule.limit * 100:.2f} points" if in_points else f"+{rule.limit:.0%}"
    required = "yes" if rule.required else "no"
    if judgement.effect is None:
        return (rule.metric.name, judgement.scope, *[NOTHING] * 5, limit, required, outcome)
    cells = effect_cells(judgement.effect, CONFIDENCE)
    return (*cells[:6], f"{judgement.p:.2g}", limit, required, outcome)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Foreign text that Markdown shows as it is: one line, no HTML, no links."""
    return _MARKUP.sub(r"\\\1", one_line(text))


def _title(result: GateResult) -> str:
    return _TITLES.get(result.exit_code, "failed")
