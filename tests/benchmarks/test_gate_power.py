"""The simulation of the gate's answers, through its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gate_power import main


def test_the_quick_table_tells_a_slowdown_from_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--quick", "--trials", "8", "--json", str(tmp_path / "power.json")]) == 0
    rows = json.loads((tmp_path / "power.json").read_text())["rows"]
    same, slower, too_few = (row["answers"] for row in rows)
    assert same["regression"] == 0
    assert same["same"] >= 0.6
    assert slower["regression"] >= 0.9
    assert too_few["inconclusive"] == 1
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(rows)
    assert "at most 8 rounds | 10%" in table[3]
