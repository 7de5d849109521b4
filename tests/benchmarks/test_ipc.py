"""The benchmark of transports alone, in short."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import ipc
from harness.errors import ExitCode
from harness.report.benches import read_bench


def test_every_transport_and_length_is_timed_in_every_process(tmp_path: Path) -> None:
    file = tmp_path / "ipc.json"
    command = ["--processes", "2", "--rounds", "3", "--lengths", "0.5", "2", "--json", str(file)]
    assert ipc.main(command) == ExitCode.DONE
    rows = json.loads(file.read_text())["trials"]
    assert [row["size"] for row in rows] == [0.5, 2.0]
    for row in rows:
        assert set(row["contenders"]) == set(ipc.TRANSPORTS)
        for measured in row["contenders"].values():
            assert measured["process"] == [0, 0, 0, 1, 1, 1]
            assert set(measured["figures"]) == {"handover_s", "whole_s"}
        assert row["agreement"]["shared_memory"] == {"copied_bytes": 0, "read_in_place": True}
        assert row["agreement"]["zeromq"]["copied_bytes"] > row["facts"]["payload_bytes"]
    assert len(read_bench(file)) == 1
