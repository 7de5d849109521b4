"""Claims that need a GPU, on a machine that may have none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.claims.accelerated import CLAIMS, speedup, tests
from harness.claims.model import Bench, Verdict
from harness.config.needs import Machine


@pytest.mark.parametrize("number", [claim.number for claim in CLAIMS])
def test_a_machine_without_a_gpu_says_so(number: int, tmp_path: object) -> None:
    if Machine().compute_capability is not None:
        pytest.skip("this machine has a GPU")
    finding = tests()[number][1](Bench(folder=tmp_path, cache_dir=tmp_path))  # type: ignore[arg-type]
    assert finding.verdict is Verdict.CANNOT_RUN
    assert "GPU" in finding.measured


def test_the_decoder_claims_show_the_reference_machines_by_name(tmp_path: object) -> None:
    finding = tests()[4][1](Bench(folder=tmp_path, cache_dir=tmp_path))  # type: ignore[arg-type]
    assert finding.rows
    assert all(row["machine"].startswith("NVIDIA") for row in finding.rows)
    assert all(row["low"] <= row["times faster"] <= row["high"] for row in finding.rows)
    assert "not of this one" in finding.notes[0]


def reference_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """An empty folder of reference results, with one machine in it."""
    monkeypatch.setattr("harness.claims.accelerated.reference_dir", lambda: folder)
    (folder / "gpu-machine").mkdir()
    return folder / "gpu-machine"


ENGINE = {"weights_bytes": 100 << 20, "engine_bytes": 120 << 20, "activations_bytes": 30 << 20}
TENSORRT = {
    "provenance": {"gpu": None},
    "meta": {"layers": 2},
    "engines": {
        name: {
            "tensorrt": "8.6.0",
            "optimization_level": 3,
            "memory": ENGINE,
            "profiles_frames": [[1, 8, 8]] * profiles,
        }
        for name, profiles in (("single", 1), ("multi", 2))
    },
    "rows": [
        {
            "length_s": 1.0,
            "samples_s": {"single": [0.004] * 60, "single_own": [0.002] * 60, "multi": [0.001] * 60},
            "invalid": {},
        },
        {"length_s": 2.0, "samples_s": {"single": [0.004] * 60}, "invalid": {"multi": "differs"}},
    ],
}
ENCODERS = {
    "provenance": {"gpu": "NVIDIA Test", "layers": 2},
    "built": {
        "graph": {"weights_bytes": 100 << 20, "added_bytes": 70 << 20},
        "inductor": {"failed": "no compiler"},
        "fused": {"weights_bytes": 100 << 20, "added_bytes": None},
    },
}


def test_profiles_are_compared_at_each_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (reference_machine(monkeypatch, tmp_path) / "tensorrt.json").write_text(json.dumps(TENSORRT))
    finding = tests()[2][1](Bench(folder=tmp_path, cache_dir=tmp_path))
    right, wrong = finding.rows
    assert (right["machine"], right["layers"], right["audio_s"], right["times faster"]) == (
        "gpu-machine",
        2,
        1.0,
        4.0,
    )
    assert right["single_profile at its own length ms"] == 2.0
    assert "1 s, 2 layers, level 3, 2 profiles: 4.0 [4.0, 4.0] times faster" in finding.measured
    assert wrong["withheld"] == "multi_profile gave wrong states"
    assert "2 s, 2 layers, level 3, 2 profiles: withheld, multi_profile gave wrong states" in finding.measured


def test_memory_is_a_table_of_every_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = reference_machine(monkeypatch, tmp_path)
    (folder / "tensorrt.json").write_text(json.dumps(TENSORRT))
    (folder / "encoders.json").write_text(json.dumps(ENCODERS))
    finding = tests()[3][1](Bench(folder=tmp_path, cache_dir=tmp_path))
    held = {row["encoder"]: (row["weights MiB"], row["beside them MiB"]) for row in finding.rows}
    assert held == {
        "graph": (100, 70),
        "fused": (100, "unknown"),
        "TensorRT single, level 3, profiles: 1": (100, 50),
        "TensorRT multi, level 3, profiles: 2": (100, 50),
    }


def test_a_speedup_comes_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(0.9, 1.1, 25)
    ratio, low, high = speedup((0.040 * drift).tolist(), (0.010 * drift).tolist())
    assert low <= ratio <= high
    assert ratio == pytest.approx(4.0, rel=0.05)
    assert high - low < 0.5  # both took turns, so the drift cancels
