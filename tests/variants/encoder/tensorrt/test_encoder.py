"""Export, build, contexts, graphs and pointers together, over the stand-in for TensorRT beside this file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bisect
from benchmarks import tensorrt as engines
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError, UsageError
from harness.protocols import BuildProgress, ShapePlan, silent
from harness.protocols.options import NoOptions
from harness.report.benches import read_bench
from tests.variants.encoder.parts import small_model
from variants.encoder import eager, multi_profile, single_profile
from variants.encoder.bucketed import BucketedEncoder
from variants.encoder.options import MultiProfile, SingleProfile
from variants.encoder.parity import LIMITS, States, compare, probe
from variants.encoder.tensorrt.build import Stop
from variants.encoder.tensorrt.build import build as build_engine
from variants.encoder.tensorrt.encoder import build_encoder, require
from variants.encoder.tensorrt.export import FILE_NAME
from variants.encoder.tensorrt.run import EngineRunner, to_float32
from variants.encoder.tensorrt.spec import EngineSpec, ShapeRange, hash_onnx
from variants.models.types import TdtModel

STANDIN = Path(__file__).parent / "standin"
STANDINS = ("cuda", "tensorrt", "tensorrt_rtx")
PLAN = ShapePlan((0.5, 1.0, 2.0), 4, (0.3, 0.4, 0.8, 1.1, 1.8))


@pytest.fixture(scope="module", autouse=True)
def tensorrt() -> Iterator[None]:
    """``import tensorrt`` and ``cuda.bindings.runtime`` find the stand-ins, here and in child processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in sys.modules if n.split(".")[0] in STANDINS]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(str(STANDIN))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(STANDIN), str(Path.cwd())]))
        yield
        for name in [n for n in sys.modules if n.split(".")[0] in STANDINS]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def model(dtype: torch.dtype = torch.float32, seed: int = 0) -> TdtModel:
    return replace(small_model(dtype=dtype, seed=seed), provenance={"weights_hash": f"seed {seed}"})


def build(
    choice: Any,
    cache: Path,
    given: TdtModel | None = None,
    progress: BuildProgress = silent,
    **options: Any,
) -> BucketedEncoder:
    multi = choice is multi_profile
    chosen = (MultiProfile if multi else SingleProfile)(longest_s=2.0, cache_dir=str(cache), **options)
    given = given or model()
    grid = (choice.make_multi_grid if multi else choice.make_single_grid)(PLAN, chosen, given.hop_s)
    return build_encoder(choice.NAME, given, chosen, grid, progress)


@pytest.mark.parametrize("padding", ["profile", "none"])
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("choice", [single_profile, multi_profile])
def test_engines_answer_as_the_model_does(choice: Any, padding: str, cuda_graphs: bool, cache: Path) -> None:
    encoder = build(choice, cache, padding=padding, cuda_graphs=cuda_graphs)
    reference = eager.build(model(), NoOptions(), PLAN)
    for rows, frames in ((1, 20), (3, 100), (4, 200), (6, 55), (1, 20)):
        batch = probe(rows, max(1, frames // 2), frames, 32, seed=frames)
        found, expected = encoder.encode(batch), reference.encode(batch)
        assert found.values.shape == expected.values.shape
        assert found.lengths.dtype == torch.int64
        agreement = compare(
            States(expected.values.numpy(), expected.lengths.numpy()),
            States(found.values.numpy(), found.lengths.numpy()),
        )
        assert agreement.within(LIMITS["float32"])


def test_half_precision_stays_half(cache: Path) -> None:
    encoder = build(multi_profile, cache, model(torch.float16))
    assert encoder.encode(probe(1, 50, 50, 32)).values.dtype == torch.float16


def test_fp8_is_held_to_limits_of_its_own(cache: Path) -> None:
    evidence = build(multi_profile, cache, model(torch.float16), precision="fp8").evidence()
    assert evidence["dtype"] == "float8"
    assert evidence["not_engaged"] is None
    assert all(0.99 <= agreement["cosine"] < 0.99999 for agreement in evidence["parity"].values())


def test_an_interrupted_build_keeps_what_it_has_timed(tmp_path: Path) -> None:
    """So that the next one begins with it; TensorRT ends a build where its monitor says so."""
    graph = exported(tmp_path, "0.5") / "graph" / FILE_NAME
    spec = EngineSpec(str(graph), hash_onnx(graph), 80, "fp32", (ShapeRange((1, 1, 1), (1, 50, 50)),))
    plan, timings = tmp_path / "plan", tmp_path / "timings.bin"
    for interrupted in (True, True, False):
        with pytest.raises(HarnessError, match="interrupted") if interrupted else nullcontext():
            build_engine(spec, plan, timings, lambda _message: None, asked_to_stop(interrupted))
        assert plan.exists() is not interrupted
    assert timings.read_bytes() == b"ttt"  # each build adds to the timings of the one before


def asked_to_stop(already: bool) -> Stop:
    stop = Stop()
    if already:
        stop.asked.set()
    return stop


def test_profiles_are_chosen_counted_and_never_switched_inside_a_context(cache: Path) -> None:
    encoder = build(multi_profile, cache)
    built = encoder.evidence()
    for frames in (20, 20, 190, 20):
        encoder.encode(probe(1, frames, frames, 32))
    evidence = encoder.evidence()
    assert evidence["profile_switches"] == 2
    assert evidence["calls"] == evidence["replays"] == 4
    assert evidence["captures"] == built["captures"] == len(evidence["shapes"])
    assert evidence["captures_after_build"] == 0
    assert evidence["contexts_created"] == built["contexts_created"]
    assert evidence["cuda_graphs"]
    assert evidence["not_engaged"] is None


def test_one_context_for_each_profile_without_graphs(cache: Path) -> None:
    evidence = build(multi_profile, cache, cuda_graphs=False).evidence()
    assert evidence["contexts_created"] == len(evidence["profiles"])
    assert evidence["captures"] == 0
    assert not evidence["cuda_graphs"]


def test_memory_is_told_apart(cache: Path) -> None:
    memory = build(multi_profile, cache).evidence()["memory"]
    assert {"weights_bytes", "activations_bytes", "input_buffers_bytes", "added_bytes"} <= set(memory)
    assert memory["activations_bytes"] == 4096


def test_the_second_start_builds_nothing(tmp_path: Path) -> None:
    first, second = (build(single_profile, tmp_path).evidence() for _ in range(2))
    assert (first["found_in_cache"], second["found_in_cache"]) == (False, True)
    assert first["build_s"] == second["build_s"] > 0.0
    assert len([p for p in (tmp_path / "engines").iterdir() if p.is_dir()]) == 1


def test_an_engine_of_other_weights_is_invalid_and_names_the_bucket(tmp_path: Path) -> None:
    """As if a cached export had been taken for these weights: the same hash, another model."""
    build(single_profile, tmp_path, model(seed=1))
    wrong = replace(model(seed=2), provenance={"weights_hash": "seed 1"})
    with pytest.raises(InvalidMeasurementError, match=r"encoder=single_profile: bucket 0.*tactic_sources"):
        build(single_profile, tmp_path, wrong)


def test_whoever_waits_hears_what_is_being_done(cache: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    build(single_profile, cache, progress=lambda what, done=0, total=0: heard.append((what, done, total)))
    assert heard[0] == ("exporting the encoder to ONNX", 0, 0)
    shapes = [(done, total) for what, done, total in heard if what == "capturing the engine's shapes"]
    assert shapes == [(0, 3), (1, 3), (2, 3)]
    assert heard[-1] == ("comparing each shape with the eager encoder", 2, 3)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that TensorRT-RTX serves."""
    monkeypatch.setenv("STANDIN_CAPABILITY", "8.9")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("captured_by", ["harness", "runtime"])
def test_tensorrt_rtx_compiles_each_planned_shape_once_and_keeps_it_beside_the_engine(
    captured_by: str, tmp_path: Path
) -> None:
    for expected in (3, 0):
        encoder = build(single_profile, tmp_path, runtime="tensorrt_rtx", captured_by=captured_by)
        batch = probe(3, 50, 100, 32, seed=1)
        found, reference = encoder.encode(batch), eager.build(model(), NoOptions(), PLAN).encode(batch)
        assert torch.allclose(found.values[0], reference.values[0], atol=1e-4)
        assert compiled() == expected
        evidence = encoder.evidence()
        assert (evidence["runtime"], evidence["captured_by"]) == ("TensorRT-RTX 1.7.1.116", captured_by)
        assert evidence["cuda_graphs"]
        assert evidence["captures"] == (3 if captured_by == "harness" else 0)
        assert evidence["not_engaged"] is None


@pytest.mark.usefixtures("rtx")
def test_kernels_of_another_gpu_are_compiled_anew(tmp_path: Path) -> None:
    build(single_profile, tmp_path, runtime="tensorrt_rtx")
    (kernels,) = (tmp_path / "engines").glob("*/kernels.bin")
    kernels.write_bytes(b"another's")
    compiled()
    build(single_profile, tmp_path, runtime="tensorrt_rtx")
    assert compiled() == 3


@pytest.mark.usefixtures("rtx")
def test_lengths_that_nobody_planned_run_on_kernels_for_every_shape(tmp_path: Path) -> None:
    encoder = build(single_profile, tmp_path, runtime="tensorrt_rtx", padding="none")
    encoder.encode(probe(1, 33, 33, 32, seed=1))
    assert compiled() == 0


def compiled() -> int:
    """Shapes that this process compiled since it was last asked."""
    import tensorrt_rtx

    count = len(tensorrt_rtx.COMPILED)
    tensorrt_rtx.COMPILED.clear()
    return count


def test_what_the_runtime_does_not_do_is_said_before_anything_is_built() -> None:
    given: Any = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(UnavailableError, match=r"no engine for compute capability 9\.0"):
        require("single_profile", given, SingleProfile(runtime="tensorrt_rtx"))
    with pytest.raises(UsageError, match="captured_by=runtime: TensorRT does not"):
        require("single_profile", given, SingleProfile(captured_by="runtime"))


def test_a_plan_that_cannot_be_loaded_says_what_to_remove(tmp_path: Path) -> None:
    plan = tmp_path / "encoder.plan"
    plan.write_bytes(b"not a plan")
    with pytest.raises(UnavailableError, match=r"encoder\.plan.*magic tag.*remove"):
        EngineRunner(plan, 32)


def test_bits_of_bfloat16_read_as_numbers() -> None:
    values = torch.tensor([1.0, -2.5, 0.0078125], dtype=torch.bfloat16)
    bits = values.view(torch.uint16).numpy()
    assert to_float32(bits).tolist() == values.float().tolist()


def exported(folder: Path, *lengths_s: str) -> Path:
    """Probes of one layer, as the command makes them."""
    probes = folder / "probes"
    given = ["export", "--model", "parakeet_tiny", "--layers", "1", "--precision", "fp32"]
    assert engines.main([*given, "--lengths", *lengths_s, "--output", str(probes)]) == ExitCode.DONE
    return probes


def test_engines_are_timed_without_torch_after_parity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes, times = exported(tmp_path, "0.5", "1"), tmp_path / "times.json"
    timing = ["time", str(probes), "--rounds", "3", "--cache", str(tmp_path), "--json", str(times)]
    assert engines.main(timing) == ExitCode.DONE
    rows = json.loads(times.read_text())["trials"]
    assert [row["size"] for row in rows] == [0.5, 1.0]
    timed = [engine for row in rows for engine in row["contenders"].values()]
    assert [len(engine["samples"]["call_s"]) for engine in timed] == [3] * 6
    assert all(parity["cosine"] > 0.9999 for row in rows for parity in row["agreement"].values())
    assert [panel.title for panel in read_bench(times)] == ["TensorRT 10.3.0 at level 3, 1 layers, batch 1"]
    assert "multi: 2 profiles" in capsys.readouterr().out


def test_fewer_profiles_than_lengths_are_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes, times = exported(tmp_path, "0.5", "1", "2"), tmp_path / "times.json"
    timing = ["time", str(probes), "--engines", "multi", "--profiles", "2", "--rounds", "1"]
    kernels = tmp_path / "kernels.json"
    keeping = ["--json", str(times), "--layers-json", str(kernels)]
    assert engines.main([*timing, "--cache", str(tmp_path), *keeping]) == ExitCode.DONE
    assert "multi: 2 profiles" in capsys.readouterr().out
    (_, _, first), (after, _, last) = json.loads(times.read_text())["engines"]["multi"]["profiles_frames"]
    assert (after, last) == (first + 1, 208)
    layers = json.loads(kernels.read_text())["multi"]["Layers"]
    assert [layer["TacticName"] for layer in layers] == ["a kernel\n"] * 2


def test_a_listing_of_layers_that_is_no_json_does_not_end_the_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = SimpleNamespace(get_engine_information=lambda _format: "{cut")
    engine = "tensorrt.Engine.create_engine_inspector"  # the stand-in's
    monkeypatch.setattr(engine, lambda _engine: inspector)
    probes, kernels = exported(tmp_path, "0.5", "1"), tmp_path / "kernels.json"
    timing = ["time", str(probes), "--engines", "single", "--rounds", "1", "--cache", str(tmp_path)]
    assert engines.main([*timing, "--layers-json", str(kernels)]) == ExitCode.DONE
    assert json.loads(kernels.read_text()) == {"single": "{cut"}


def test_a_profile_that_is_wrong_alone_is_told_from_a_wrong_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TensorRT 8.6.0 did it: a wrong kernel in one profile, the others right for the same features."""
    probes, times = exported(tmp_path, "0.5", "1"), tmp_path / "times.json"
    run_host = EngineRunner.run_host

    def wrong_in_the_first(self: EngineRunner, *given: Any) -> dict[str, np.ndarray]:
        found = run_host(self, *given)
        return {**found, "states": found["states"] * -1.0} if given[2] == 0 and self.profiles > 1 else found

    monkeypatch.setattr(EngineRunner, "run_host", wrong_in_the_first)
    timing = ["time", str(probes), "--rounds", "1", "--cache", str(tmp_path), "--json", str(times)]
    assert engines.main(timing) == ExitCode.INVALID
    said = "Profile 1 is right for the same features, profile 0 is not"
    assert said in capsys.readouterr().out
    wrong, right = json.loads(times.read_text())["trials"]
    assert said in wrong["withheld"]["multi"]
    assert set(wrong["contenders"]) == {"single", "single_own"}
    assert set(right["contenders"]) == {"single", "single_own", "multi"}


def test_a_build_that_fails_leaves_the_other_engines_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, times = exported(tmp_path, "0.5", "1"), tmp_path / "times.json"
    build = engines._build

    def no_second(name: str, *given: Any) -> Any:
        if name == "multi":
            raise HarnessError("no kernel found")
        return build(name, *given)

    monkeypatch.setattr(engines, "_build", no_second)
    timing = ["time", str(probes), "--cache", str(tmp_path), "--json", str(times)]
    assert engines.main(timing) == ExitCode.INVALID
    kept = json.loads(times.read_text())
    assert set(kept["engines"]) == {"single", "single_own"}
    assert all(set(row["contenders"]) == {"single", "single_own"} for row in kept["trials"])
    assert all(row["withheld"] == {"multi": "no kernel found"} for row in kept["trials"])


def test_an_engine_is_not_timed_where_it_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what the other lengths took is kept."""
    probes, times = exported(tmp_path, "0.5", "1"), tmp_path / "times.json"
    case = dict(np.load(probes / "0.5.npz"))
    case["states"] = -case["states"]
    np.savez(probes / "0.5.npz", **case)
    timing = ["time", str(probes), "--rounds", "3", "--cache", str(tmp_path), "--json", str(times)]
    assert engines.main(timing) == ExitCode.INVALID
    wrong, right = json.loads(times.read_text())["trials"]
    assert wrong["contenders"] == {}
    assert set(wrong["withheld"]) == {"single", "single_own", "multi"}
    assert set(right["contenders"]) == {"single", "single_own", "multi"}
    assert "single, 51 frames, fp32, 1 layers differs" in capsys.readouterr().out


def test_missing_probes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert engines.main(["time", str(tmp_path / "nothing")]) == ExitCode.USAGE
    assert "export" in capsys.readouterr().err


def test_bisection_runs_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bisect, "_load", lambda _options: small_model())
    assert bisect.main(["--frames", "64", "--cache", str(tmp_path)]) == ExitCode.DONE
    assert "layers.1" in capsys.readouterr().out
