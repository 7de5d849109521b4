"""The table of claims: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.claims.model import Finding
from harness.files import write_text
from harness.run.provenance import cpu_model, usable_cores

_HEADINGS = ("#", "claim", "pair", "measured here", "verdict")


def write(findings: Sequence[Finding], folder: Path, conditions: Mapping[str, Any]) -> Path:
    """``claims.md`` and ``claims.json`` beside the plots; returns the Markdown's path."""
    machine = {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
    }
    document = {
        "schema": 1,
        "machine": machine,
        "conditions": dict(conditions),
        "claims": [finding.as_dict() for finding in findings],
    }
    write_text(folder / "claims.json", json.dumps(document, indent=1, default=str) + "\n")
    page = folder / "claims.md"
    write_text(page, markdown(findings, machine, conditions))
    return page


def markdown(findings: Sequence[Finding], machine: Mapping[str, Any], conditions: Mapping[str, Any]) -> str:
    """The whole report."""
    lines = ["# The published claims, measured here", ""]
    lines += [", ".join(f"{key}: {value}" for key, value in {**machine, **conditions}.items()), ""]
    lines += _table(_HEADINGS, [_summary(finding) for finding in findings])
    for finding in findings:
        lines += ["", f"## {finding.claim.number}. {finding.claim.statement}", ""]
        lines += [f"`{finding.claim.baseline}` → `{finding.claim.variant}` — **{finding.verdict}**", ""]
        lines += [finding.measured, "", f"Rule: {finding.claim.rule}", ""]
        if finding.rows:
            headings = list(dict.fromkeys(key for row in finding.rows for key in row))
            lines += [*_table(headings, [[row.get(key, "") for key in headings] for row in finding.rows]), ""]
        lines += [f"- {note}" for note in finding.notes]
        lines += ["", *(f"![claim {finding.claim.number}]({name})" for name in finding.plots)]
    return "\n".join(lines).rstrip() + "\n"


def terminal(finding: Finding) -> str:
    """One claim in a few lines."""
    claim = finding.claim
    return (
        f"claim {claim.number}: {claim.statement}\n"
        f"  {claim.baseline} -> {claim.variant}\n"
        f"  measured  {finding.measured}\n"
        f"  verdict   {finding.verdict}"
    )


def _summary(finding: Finding) -> list[str]:
    claim = finding.claim
    pair = f"`{claim.baseline}` → `{claim.variant}`"
    return [str(claim.number), claim.statement, pair, finding.measured, f"**{finding.verdict}**"]


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]
