"""The graph in FP8: computed by ONNX Runtime as it stands, and built by TensorRT-RTX."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from benchmarks import bisect
from benchmarks import tensorrt as bench
from benchmarks.models import random_model
from harness.errors import ExitCode, HarnessError, UnavailableError
from tests.variants.encoder.parts import small_model
from variants.encoder.parity import LIMITS, Agreement, States, compare
from variants.encoder.probes import speech_probe
from variants.encoder.tensorrt import fp8, versions
from variants.encoder.tensorrt.export import FILE_NAME, export, export_key
from variants.models.options import ModelOptions
from variants.models.types import TdtModel


@pytest.fixture(scope="module")
def model() -> TdtModel:
    """The first layer of ``parakeet_tiny``."""
    return random_model(ModelOptions("parakeet_tiny", precision="fp16", layers=1), torch.device("cpu"))


@pytest.fixture(scope="module")
def graph(model: TdtModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp8")
    export(model, folder, 400, fp8=True)
    return folder / FILE_NAME


def agreement(model: TdtModel, graph: Path, rows: int, frames: int) -> Agreement:
    """Of the graph as it is: ONNX Runtime's rewriting moves e4m3 to operators that it has not for it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    batch = speech_probe(rows, max(1, frames // 2), frames, model.feature_bins, seed=frames)
    given = {"features": batch.values, "lengths": batch.lengths.astype(np.int32)}
    states, lengths = session.run(None, given)
    expected = bisect.reference(model, batch)
    return compare(
        States(expected["states"], expected["state_lengths"]), States(states.astype(np.float32), lengths)
    )


@pytest.mark.parametrize(("rows", "frames"), [(1, 40), (3, 250), (2, 400)])
def test_the_quantized_graph_answers_nearly_as_the_model_does(
    model: TdtModel, graph: Path, rows: int, frames: int
) -> None:
    found = agreement(model, graph, rows, frames)
    assert found.within(LIMITS["float8"])
    assert found.cosine < 0.99999  # it is quantized


def test_the_large_products_and_no_others_read_e4m3(graph: Path) -> None:
    loaded = onnx.load(str(graph)).graph
    made_by = {name: node.op_type for node in loaded.node for name in node.output}
    quantized = {
        node.name
        for node in loaded.node
        if node.op_type == "MatMul" and {made_by.get(name) for name in node.input} == {"DequantizeLinear"}
    }
    ends = (
        "feed_forward1/linear1",
        "feed_forward1/linear2",
        "feed_forward2/linear1",
        "feed_forward2/linear2",
    )
    attention = [f"self_attn/linear_{name}" for name in ("q", "k", "v", "out")]
    assert quantized == {f"/layers.0/{end}/MatMul" for end in (*ends, *attention)}
    kinds = [tensor.data_type for tensor in loaded.initializer if len(tensor.dims) == 2]
    assert kinds.count(onnx.TensorProto.FLOAT8E4M3FN) == 8


def test_what_three_products_read_is_quantized_once(graph: Path) -> None:
    nodes = onnx.load(str(graph)).graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 6  # 8 products; q, k and v share theirs


def test_a_graph_in_fp32_and_a_channel_without_weights(tmp_path: Path) -> None:
    model = small_model()
    encoder: Any = model.encoder
    encoder.layers[0].feed_forward1.linear1.weight[3] = 0.0
    export(model, tmp_path, 200, fp8=True)
    found = agreement(model, tmp_path / FILE_NAME, 1, 100)
    assert found.within(LIMITS["float8"])


def test_a_graph_without_the_names_of_the_modules_is_refused(tmp_path: Path) -> None:
    model = small_model()
    export(model, tmp_path, 200)
    graph = onnx.load(str(tmp_path / FILE_NAME))
    for node in graph.graph.node:
        node.name = ""
    onnx.save(graph, str(tmp_path / FILE_NAME))
    with pytest.raises(HarnessError, match=r"no product has the name of layers\.0"):
        fp8.quantize(model, tmp_path / FILE_NAME)


def test_it_is_another_export() -> None:
    model = replace(small_model(), provenance={"weights_hash": "w"})
    assert export_key(model, 100, fp8=True) != export_key(model, 100)


def test_what_has_no_fp8_says_so() -> None:
    old, new = (SimpleNamespace(__name__="tensorrt", __version__=version) for version in ("8.6.0", "10.3"))
    with pytest.raises(UnavailableError, match=r"8\.6\.0 .*fp8 needs TensorRT 10"):
        versions.require_precision(old, (9, 0), "fp8")
    with pytest.raises(UnavailableError, match=r"8\.6 has no FP8.*precision=model"):
        versions.require_precision(new, (8, 6), "fp8")
    versions.require_precision(new, (8, 9), "fp8")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed: pip install '.[tensorrt-rtx]'",
)
def test_tensorrt_rtx_builds_it_where_the_gpu_has_fp8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", "--model", "parakeet_tiny", "--layers", "1", "--precision", "fp8", "--lengths", "1"]
    assert bench.main([*given, "--output", str(tmp_path / "probes")]) == ExitCode.DONE
    building = ["build", str(tmp_path / "probes"), "--runtime", "tensorrt_rtx", "--cache", str(tmp_path)]
    assert bench.main([*building, "--engines", "single", "--target", "8.6"]) == ExitCode.UNAVAILABLE
    assert "8.6 has no FP8" in capsys.readouterr().err
    assert bench.main([*building, "--engines", "single", "--target", "8.9"]) == ExitCode.DONE
