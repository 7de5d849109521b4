"""The benchmark of decoders, in short."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import containers
from harness.errors import ExitCode
from harness.report.benches import read_bench


def test_every_format_is_timed_by_every_library_that_knows_it(tmp_path: Path) -> None:
    file = tmp_path / "containers.json"
    assert containers.main(["--rounds", "2", "--lengths", "2.1", "--json", str(file)]) == ExitCode.DONE
    rows = {row["panel"]: row for row in json.loads(file.read_text())["trials"]}
    assert set(rows) == {format.name for format in containers.FORMATS}
    for row in rows.values():
        assert {"decode", "isolated", "pyav"} <= set(row["contenders"])
        assert row["floor_s"] > 0
        samples = row["contenders"]["decode"]["samples"]
        assert samples["times_real"][0] * samples["core_s"][0] > 2.09
    assert "soundfile" in rows["ogg, opus, 48 kHz"]["contenders"]
    assert rows["flac, 16 bits, 16 kHz"]["facts"]["decoder"] == "soundfile"
    assert rows["wav, mu-law, 8 kHz"]["facts"]["decoder"] == "wav"
    assert len(read_bench(file)) == len(containers.FORMATS)
