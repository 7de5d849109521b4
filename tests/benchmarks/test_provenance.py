from __future__ import annotations

from benchmarks.provenance import bench_provenance


def test_paths_of_this_machine_stay_here() -> None:
    found = bench_provenance("benchmarks.encoder", ["--json", "/home/me/x y.json", "--rounds", "9"], "abc")
    assert found["command"] == "python -m benchmarks.encoder --json 'x y.json' --rounds 9"
    assert found["commit"] == "abc"
    assert found["packages"]["torch"]
    assert set(found) >= {"gpu", "driver", "python", "started_at"}
