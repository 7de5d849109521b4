from __future__ import annotations

from harness.bench_provenance import bench_provenance


def test_paths_of_this_machine_stay_here() -> None:
    found = bench_provenance(
        "variants.encoder.bench", ["--json", "/home/me/x y.json", "--rounds", "9"], "abc"
    )
    assert found["command"] == "python -m variants.encoder.bench --json 'x y.json' --rounds 9"
    assert found["commit"] == "abc"
    assert found["packages"]["torch"]
    assert set(found) >= {"gpu", "driver", "python", "started_at"}
