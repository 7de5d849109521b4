"""The table of claims: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.claims.finding import Finding
from harness.files import write_text
from harness.measure.text import markdown_table
from harness.run.provenance import cpu_model, usable_cores

_HEADINGS = ("#", "claim", "pair", "measured here", "verdict")


def write(findings: Sequence[Finding], folder: Path, conditions: Mapping[str, Any]) -> Path:
    """``claims.md`` and ``claims.json`` in ``folder``; returns the Markdown's path."""
    machine = {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
    }
    document = {
        "schema": 2,
        "machine": machine,
        "conditions": dict(conditions),
        "claims": [finding.as_dict() for finding in findings],
    }
    write_text(folder / "claims.json", json.dumps(document, indent=1) + "\n")
    page = folder / "claims.md"
    write_text(page, markdown(findings, {**machine, **conditions}))
    return page


def markdown(findings: Sequence[Finding], conditions: Mapping[str, Any]) -> str:
    """The whole report."""
    lines = ["# The published claims, measured here", ""]
    lines += [", ".join(f"{key}: {value}" for key, value in conditions.items()), ""]
    lines += markdown_table(_HEADINGS, [_summary(finding) for finding in findings])
    for finding in findings:
        lines += ["", f"## {finding.number}. {finding.leaf.claim}", "", *_section(finding)]
    return "\n".join(lines).rstrip() + "\n"


def terminal(finding: Finding) -> str:
    """One claim in a few lines."""
    return (
        f"claim {finding.number}: {finding.leaf.claim}\n"
        f"  {_pair(finding)}\n"
        f"  measured  {finding.measured}\n"
        f"  verdict   {finding.verdict}"
    )


def _section(finding: Finding) -> list[str]:
    lines = [f"`{_pair(finding)}`: **{finding.verdict}**", "", finding.measured, ""]
    lines += [f"Rule: {finding.leaf.rule}.", ""]
    common = [override for override in finding.pair[0] if override in finding.pair[1]]
    lines += [f"Both with `{' '.join(common)}`.", ""] if common else []
    for rows in (finding.rows, finding.reference):
        lines += [*_mapped(rows), ""] if rows else []
    lines += [f"- {note}" for note in finding.notes]
    lines += [f"- run: `{run}`" for run in finding.runs]
    return [*lines, "", *(f"![claim {finding.number}]({chart})" for chart in finding.charts)]


def _pair(finding: Finding) -> str:
    """What only one side has."""
    a, b = finding.pair
    own = [[override for override in side if override not in other] for side, other in ((a, b), (b, a))]
    return " -> ".join(" ".join(side) for side in own if side)


def _summary(finding: Finding) -> list[str]:
    pair = f"`{_pair(finding)}`"
    return [str(finding.number), finding.leaf.claim, pair, finding.measured, f"**{finding.verdict}**"]


def _mapped(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    headings = list(dict.fromkeys(key for row in rows for key in row))
    return markdown_table(headings, [[row.get(key, "") for key in headings] for row in rows])
