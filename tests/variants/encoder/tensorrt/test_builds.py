"""Engines of ``parakeet_tiny`` as TensorRT-RTX builds them, in the builder's own process, without a GPU."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from benchmarks import tensorrt as bench
from benchmarks.models import random_model
from harness.errors import ExitCode, HarnessError, UnavailableError
from variants.encoder.tensorrt import process
from variants.encoder.tensorrt.build import identify
from variants.encoder.tensorrt.export import FILE_NAME, export
from variants.encoder.tensorrt.process import EngineStore
from variants.encoder.tensorrt.spec import EngineSpec, ShapeRange, hash_onnx
from variants.models.options import ModelOptions

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed: pip install '.[tensorrt-rtx]'",
)

LONGEST = 800
SHORT, LONG = (ShapeRange((1, 1, 4), frames) for frames in ((1, 200, 200), (201, LONGEST, LONGEST)))
SINGLE, MULTI = (ShapeRange((1, 1, 4), (1, LONGEST, LONGEST)),), (SHORT, LONG)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first layer of ``parakeet_tiny``, in both number types."""
    found = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path_factory.mktemp(precision)
        model = random_model(
            ModelOptions("parakeet_tiny", precision=precision, layers=1), torch.device("cpu")
        )
        export(model, folder, LONGEST)
        found[precision] = folder / FILE_NAME
    return found


def spec_of(graph: Path, profiles: tuple[ShapeRange, ...] = SINGLE, precision: str = "fp32") -> EngineSpec:
    bins = onnx.load(str(graph)).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return EngineSpec(
        str(graph), hash_onnx(graph), bins, precision, profiles, runtime="tensorrt_rtx", target=(8, 9)
    )


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What ``store`` said of its builds."""
    return []


@pytest.fixture(scope="module")
def store(told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_TELL_EVERY_S", 0.02)
        yield EngineStore(tmp_path_factory.mktemp("engines"), progress=lambda what, *_: told.append(what))


def entries(root: Path) -> list[Path]:
    return list(root.iterdir()) if root.is_dir() else []


@pytest.mark.parametrize(("precision", "profiles"), [("fp32", SINGLE), ("fp16", MULTI)])
def test_the_weights_lie_in_an_engine_once_however_many_profiles_it_has(
    precision: str, profiles: tuple[ShapeRange, ...], graphs: dict[str, Path], store: EngineStore
) -> None:
    plan = store.get(spec_of(graphs[precision], profiles, precision)).plan.read_bytes()
    weights = product_weights(graphs[precision])
    found = [plan.count(weight) for weight in weights]
    assert max(found) == 1
    assert sum(found) > 0.5 * len(found)  # others are laid out anew


def product_weights(graph: Path) -> list[bytes]:
    """A piece of each weight of a matrix product, in the graph's number type."""
    tensors = onnx.load(str(graph)).graph.initializer
    return [tensor.raw_data[1000:1064] for tensor in tensors if "MatMul" in tensor.name]


def test_progress_tells_profiles_and_what_is_left(
    graphs: dict[str, Path], store: EngineStore, told: list[str]
) -> None:
    store.get(spec_of(graphs["fp16"], MULTI, "fp16"))
    said = {what.split(": ", 1)[-1] for what in told}
    assert any(what.startswith("profile 1 of 2, ") for what in said)
    assert any(what.startswith("profile 2 of 2, about ") for what in said)


def test_an_engine_is_built_once_and_again_where_it_was_damaged(
    graphs: dict[str, Path], store: EngineStore
) -> None:
    spec = spec_of(graphs["fp32"])
    first, second = store.get(spec), store.get(spec)
    assert second.found
    assert (second.plan, second.build_s) == (first.plan, first.build_s)
    content = first.plan.read_bytes()
    first.plan.write_bytes(content[:-1])
    assert not store.get(spec).found
    assert first.plan.stat().st_size == len(content)


def test_an_engine_serves_every_gpu_of_a_compute_capability(graphs: dict[str, Path]) -> None:
    assert identify(spec_of(graphs["fp32"]))["gpu"] == "sm_89"


def test_a_gpu_that_it_does_not_serve_is_named_before_anything_is_built(
    graphs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match=r"compute capability 9\.0 .*8\.9, 12\.0.*runtime=tensorrt,"):
        EngineStore(tmp_path).get(replace(spec_of(graphs["fp32"]), target=(9, 0)))
    assert entries(tmp_path) == []


def test_a_graph_that_the_parser_refuses(tmp_path: Path) -> None:
    def tensor(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 80, 10])

    node = onnx.helper.make_node("NoSuchOperator", ["features"], ["states"])
    graph = onnx.helper.make_graph([node], "g", [tensor("features")], [tensor("states")])
    path = tmp_path / "graph" / "unknown.onnx"
    path.parent.mkdir()
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), str(path))
    with pytest.raises(HarnessError, match=r"unknown\.onnx: TensorRT's parser refuses it: .*NoSuchOperator"):
        EngineStore(tmp_path / "engines").get(spec_of(path))
    assert entries(tmp_path / "engines") == []


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (ShapeRange((1, 1, 4), (200, 100, 800)), "refuses the optimization profile"),
        (
            ShapeRange((1, 1, 4), (1, 4 * LONGEST, 4 * LONGEST)),
            "could not build",
        ),  # past the positions' table
    ],
)
def test_a_profile_that_cannot_be_built(
    profile: ShapeRange, said: str, graphs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match=said) as error:
        EngineStore(tmp_path).get(spec_of(graphs["fp32"], (profile,)))
    assert "gave no reason" not in str(error.value)
    assert entries(tmp_path) == []


def many_profiles(graph: Path, folder: Path) -> Path:
    """A specification that takes seconds to build, so that there is something to interrupt."""
    spec = folder / "spec.json"
    spec.write_text(spec_of(graph, MULTI * 10).to_json())
    return spec


def test_an_interrupted_build_says_so_and_leaves_no_engine(graphs: dict[str, Path], tmp_path: Path) -> None:
    """SIGTERM, which Python's handlers cannot hear inside TensorRT: the build ends after its step."""
    spec, plan = many_profiles(graphs["fp32"], tmp_path), tmp_path / "plan"
    command = [sys.executable, "-m", "variants.encoder.tensorrt.build", "build", str(spec), str(plan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        next(line for line in builder.stdout if "profile 2 of 20" in line)
        builder.terminate()
        *_, last = builder.stdout
    assert "the build was interrupted" in json.loads(last)["error"]
    assert builder.returncode == ExitCode.INTERNAL
    assert not plan.exists()


INTERRUPTED = """
import sys
from pathlib import Path
from variants.encoder.tensorrt.process import EngineStore
from variants.encoder.tensorrt.spec import EngineSpec
EngineStore(Path(sys.argv[2])).get(EngineSpec.from_json(Path(sys.argv[1]).read_text()))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_build_ends_with_the_process_that_wants_its_engine(
    end: signal.Signals, graphs: dict[str, Path], tmp_path: Path
) -> None:
    spec, engines = many_profiles(graphs["fp32"], tmp_path), tmp_path / "engines"
    command = [sys.executable, "-c", INTERRUPTED, str(spec), str(engines)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    builder = builder_of(parent, engines)
    parent.send_signal(end)
    parent.wait()
    wait_for(lambda: has_ended(builder))
    assert [path for path in entries(engines) if not path.name.startswith(".unfinished")] == []
    assert end == signal.SIGKILL or entries(engines) == []


def builder_of(parent: subprocess.Popen[bytes], engines: Path) -> int:
    """The builder's process, once TensorRT is at work in it."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")

    def building() -> bool:
        found = children.read_text().split()
        return len(found) == 1 and "libtensorrt_rtx" in Path(f"/proc/{found[0]}/maps").read_text()

    wait_for(lambda: any((entry / "spec.json").is_file() for entry in entries(engines)))
    wait_for(building)
    return int(children.read_text())


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(reached: Callable[[], bool]) -> None:
    """Within a minute."""
    for _ in range(6000):
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_the_bench_builds_for_a_gpu_that_is_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", "--model", "parakeet_tiny", "--layers", "1", "--precision", "fp32"]
    assert (
        bench.main([*given, "--lengths", "0.5", "1", "--output", str(tmp_path / "probes")]) == ExitCode.DONE
    )
    building = ["build", str(tmp_path / "probes"), "--runtime", "tensorrt_rtx", "--cache", str(tmp_path)]
    assert bench.main([*building, "--engines", "single", "--target", "8.6"]) == ExitCode.DONE
    assert capsys.readouterr().out.splitlines()[1].startswith("single: 1 profiles, ")
    assert bench.main([*building, "--target", "9.0"]) == ExitCode.UNAVAILABLE
