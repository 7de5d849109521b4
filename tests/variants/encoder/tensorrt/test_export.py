from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from benchmarks import bisect
from benchmarks.models import random_model
from harness.errors import ExitCode, HarnessError
from harness.protocols import FeatureBatch
from tests.variants.encoder.parts import small_model
from variants.content_cache import ContentCache
from variants.encoder.parity import LIMITS, Agreement, States, compare, probe
from variants.encoder.tensorrt.encoder import exported
from variants.encoder.tensorrt.export import FILE_NAME, export, export_key, gather_weights
from variants.encoder.tensorrt.spec import hash_onnx
from variants.models.options import PRECISIONS, ModelOptions
from variants.models.types import TdtModel

LONGEST = 800


@pytest.fixture(scope="module", params=["small fp32", "small fp16", "parakeet_tiny fp32"])
def model(request: pytest.FixtureRequest) -> TdtModel:
    name, precision = request.param.split()
    if name == "parakeet_tiny":
        return random_model(ModelOptions(name, precision=precision), torch.device("cpu"))
    return small_model(dtype=getattr(torch, PRECISIONS[precision]))


@pytest.fixture(scope="module")
def graph(model: TdtModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    export(model, folder, LONGEST)
    return folder / FILE_NAME


@pytest.fixture(scope="module")
def session(graph: Path) -> Any:
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def agreement(model: TdtModel, session: Any, batch: FeatureBatch) -> Agreement:
    states, lengths = session.run(None, {"features": batch.values, "lengths": batch.lengths.astype(np.int32)})
    expected = bisect.reference(model, batch)
    return compare(States(expected["states"], expected["state_lengths"]), States(states, lengths))


@pytest.mark.parametrize("frames", [1, 8, 33, 97, 100, 250, 501, 800])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_one_graph_answers_as_the_model_does_at_any_length_and_batch(
    model: TdtModel, session: Any, rows: int, frames: int
) -> None:
    """Lengths shorter and longer than the traced example, rows padded by different amounts."""
    batch = probe(rows, max(1, frames // 3), frames, model.feature_bins, seed=frames)
    assert agreement(model, session, batch).within(LIMITS[str(model.dtype).removeprefix("torch.")])


def test_padding_to_a_profile_does_not_change_what_is_valid(model: TdtModel, session: Any) -> None:
    batch = probe(1, 90, 90, model.feature_bins)
    padded = FeatureBatch(np.pad(batch.values, ((0, 0), (0, 0), (0, 310))), batch.lengths)
    expected = bisect.reference(model, batch)
    states, lengths = session.run(
        None, {"features": padded.values, "lengths": padded.lengths.astype(np.int32)}
    )
    found = compare(States(expected["states"], expected["state_lengths"]), States(states[:, :12], lengths))
    assert found.within(LIMITS[str(model.dtype).removeprefix("torch.")])


def test_the_graph_is_valid_and_in_the_types_that_engines_take(model: TdtModel, graph: Path) -> None:
    proto = onnx.load(str(graph))
    onnx.checker.check_model(proto)
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)
    }
    half = onnx.TensorProto.FLOAT16 if model.dtype == torch.float16 else onnx.TensorProto.FLOAT
    assert types == {
        "features": onnx.TensorProto.FLOAT,
        "lengths": onnx.TensorProto.INT32,
        "states": half,
        "state_lengths": onnx.TensorProto.INT32,
    }
    assert proto.opset_import[0].version == 17


def test_lengths_meet_no_float_on_their_way(graph: Path) -> None:
    """A builder that may choose 16 bits for any float takes 3,001 frames for 3,000."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(graph))).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    reached, states = {"lengths"}, set()
    for node in inferred.node:
        if reached & set(node.input):
            found = {name: types[name] for name in node.output}
            states |= set(found.values())
            reached |= {name for name, kind in found.items() if kind != onnx.TensorProto.BOOL}
    assert "state_lengths" in reached
    assert states <= {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}


@pytest.mark.parametrize("length", range(12))
def test_short_and_empty_rows_have_the_model_s_lengths(model: TdtModel, session: Any, length: int) -> None:
    batch = FeatureBatch(probe(2, 40, 40, model.feature_bins).values, np.array([40, length]))
    _, lengths = session.run(None, {"features": batch.values, "lengths": batch.lengths.astype(np.int32)})
    assert lengths.tolist() == bisect.reference(model, batch)["state_lengths"].tolist()


def test_a_subsampling_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = small_model()
    encoder: Any = other.encoder
    encoder.pre_encode.conv = torch.nn.Sequential(*encoder.pre_encode.conv)
    with pytest.raises(HarnessError, match="Sequential"):
        export(other, tmp_path, LONGEST)


def test_the_model_in_use_is_left_as_it_was(model: TdtModel, graph: Path) -> None:  # noqa: ARG001
    encoder: Any = model.encoder
    assert not any(module.training for module in encoder.modules())
    assert encoder.pos_enc.pe.shape[1] == 2 * encoder.pos_emb_max_len - 1


def test_equal_weights_make_an_equal_hash_and_others_do_not(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        export(small_model(seed=seed), tmp_path / name, LONGEST)
        hashes.append(hash_onnx(tmp_path / name / FILE_NAME))
    assert hashes[0] == hashes[1] != hashes[2]


def test_weights_with_a_hash_are_exported_once(tmp_path: Path) -> None:
    named = replace(small_model(), provenance={"weights_hash": "abc"})
    cache = ContentCache(tmp_path)
    first = exported(named, LONGEST, cache)
    written = first.stat().st_mtime_ns
    assert exported(named, LONGEST, cache) == first
    assert first.stat().st_mtime_ns == written
    assert export_key(named, LONGEST) != export_key(named, LONGEST + 8)
    assert export_key(small_model(), LONGEST) is None


def test_weights_that_arrive_as_a_file_each_end_in_one(tmp_path: Path) -> None:
    """Above protobuf's 2 GB torch writes a file per tensor; here the same is done to a small graph."""
    model = small_model()
    (tmp_path / "whole").mkdir()
    export(model, tmp_path / "whole", LONGEST)
    path = tmp_path / "parts" / FILE_NAME
    path.parent.mkdir()
    onnx.save_model(
        onnx.load(str(tmp_path / "whole" / FILE_NAME)),
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=64,
    )
    assert len(list(path.parent.iterdir())) > 10
    gather_weights(onnx, path)
    assert sorted(part.name for part in path.parent.iterdir()) == [FILE_NAME, f"{FILE_NAME}.weights"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert agreement(model, session, probe(2, 30, 90, 32)).within(LIMITS["float32"])


# ---------------------------------------------------------------- bisection


def test_every_layer_of_a_faithful_graph_agrees(tmp_path: Path) -> None:
    model = small_model()
    export(model, tmp_path, LONGEST, taps=True)
    layers = bisect.bisect(model, bisect.onnxruntime_run(tmp_path / FILE_NAME), probe(2, 40, 120, 32))
    assert [layer.name for layer in layers] == ["pre_encode", "layers.0", "layers.1", "states"]
    assert bisect.first_difference(layers, LIMITS["float32"]) is None


def test_the_first_wrong_layer_is_named(tmp_path: Path) -> None:
    """A graph of other weights in its second layer: BatchNorm statistics, as a wrong export leaves them."""
    model, other = small_model(), small_model()
    layer: Any = other.encoder
    layer.layers[1].conv.batch_norm.running_mean += 3.0
    export(other, tmp_path, LONGEST, taps=True)
    layers = bisect.bisect(model, bisect.onnxruntime_run(tmp_path / FILE_NAME), probe(2, 40, 120, 32))
    different = bisect.first_difference(layers, LIMITS["float32"])
    assert different is not None
    assert different.name == "layers.1"


def test_bisection_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bisect, "_load", lambda _options: small_model())
    assert bisect.main(["--runtime", "onnxruntime", "--frames", "64"]) == ExitCode.DONE
    assert "every layer agrees" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_bisection_with_tensorrt_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bisect, "_load", lambda _options: small_model())
    assert bisect.main(["--runtime", "tensorrt", "--frames", "64"]) == ExitCode.UNAVAILABLE
    assert "tensorrt" in capsys.readouterr().err
