"""The decoder's numbers, taken out of the modules and laid out for tensor cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.errors import UsageError
from tests.variants.models.small import SMALL
from variants.decoder.gpu.packing import by_unit, initial_recurrent, pack, pack_fragments
from variants.decoder.gpu.shape import KernelShape
from variants.decoder.weights import TdtWeights, extract
from variants.models.parakeet import build_modules
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel


@pytest.fixture(scope="module")
def model() -> TdtModel:
    """Widths that the kernels take: multiples of 32, different for the LSTM and the joint."""
    torch.manual_seed(0)
    sizes = replace(SMALL, pred_hidden=32, joint_hidden=64)
    encoder, prednet, joint = (module.eval().requires_grad_(False) for module in build_modules(sizes))
    return TdtModel(
        name="widths",
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=SyntheticTokenizer(sizes.vocab_size),
        device=torch.device("cpu"),
        dtype=torch.float32,
        durations=sizes.durations,
        blank_id=sizes.blank_id,
        max_symbols=sizes.max_symbols,
        frame_s=sizes.frame_s,
        feature_bins=sizes.feature_bins,
    )


@pytest.fixture(scope="module")
def weights(model: TdtModel) -> TdtWeights:
    return extract(model)


def lstm_step(
    weights: TdtWeights, label: int, hidden: torch.Tensor, cell: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One label through the LSTM by its definition: hidden and cell are ``[L, H]``."""
    below = weights.embedding[label]
    states = []
    for index, layer in enumerate(weights.layers):
        gates = layer.w_ih @ below + layer.w_hh @ hidden[index] + layer.bias
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * cell[index] + i.sigmoid() * g.tanh()
        below = o.sigmoid() * c.tanh()
        states.append((below, c))
    return torch.stack([h for h, _ in states]), torch.stack([c for _, c in states])


def test_weights_reproduce_the_prediction_network(model: TdtModel, weights: TdtWeights) -> None:
    prednet: Any = model.prednet
    labels = [model.blank_id, 3, 1, 3]
    with torch.inference_mode():
        expected, (hidden, cell) = prednet.predict(torch.tensor([labels]), None, add_sos=False, batch_size=1)
        h = c = torch.zeros(len(weights.layers), weights.hidden)
        for label in labels:
            h, c = lstm_step(weights, label, h, c)
    torch.testing.assert_close(h[-1], expected[0, -1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(h, hidden[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(c, cell[:, 0], atol=1e-5, rtol=1e-4)


def test_weights_reproduce_the_joint(model: TdtModel, weights: TdtWeights) -> None:
    joint: Any = model.joint
    state = torch.randn(1, 1, weights.encoder.weight.shape[1])
    prediction = torch.randn(1, 1, weights.hidden)
    with torch.inference_mode():
        expected = joint.joint_after_projection(
            joint.project_encoder(state), joint.project_prednet(prediction)
        )
        projected = weights.encoder.weight @ state[0, 0] + weights.encoder.bias
        predicted = weights.prediction.weight @ prediction[0, 0] + weights.prediction.bias
        found = weights.output.weight @ (projected + predicted).relu() + weights.output.bias
    torch.testing.assert_close(found, expected[0, 0, 0], atol=1e-5, rtol=1e-4)


def test_a_joint_with_another_activation_is_refused(model: TdtModel) -> None:
    joint: Any = model.joint
    activation = joint.joint_net[0]
    joint.joint_net[0] = torch.nn.Tanh()
    try:
        with pytest.raises(UsageError, match=r"Tanh.*use decoder=cpu_synced"):
            extract(model)
    finally:
        joint.joint_net[0] = activation


# ---------------------------------------------------------------- order of the kernels' threads


def multiply_as_tensor_cores_do(fragments: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``W x`` of one tile from its fragments ``[pairs, 2, 32, 8]`` and ``x [32 * pairs, 8]``.

    The layout of mma.m16n8k16 in the PTX ISA, element by element: lane ``4 * row + quad`` of A holds rows
    ``row`` and ``row + 8`` of columns ``2 * quad`` and ``2 * quad + 8``, that of B column ``row``.
    """
    result = torch.zeros(16, 8)
    for pair, step, lane in torch.cartesian_prod(*map(torch.arange, fragments.shape[:3])).tolist():
        row, quad = divmod(lane, 4)
        held = fragments[pair, step, lane].reshape(4, 2)  # registers a0 … a3
        k = 32 * pair + 8 * quad + 4 * step  # this lane's four consecutive rows of x: b0, b1
        for register, (half, part) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
            result[row + 8 * half] += held[register] @ x[k + 2 * part : k + 2 * part + 2]
    return result


def test_fragments_multiply_to_the_same_product() -> None:
    matrix, x = torch.randn(32, 64), torch.randn(64, 8)
    tiles = pack_fragments(matrix)
    found = torch.cat([multiply_as_tensor_cores_do(tile, x) for tile in tiles])
    torch.testing.assert_close(found, matrix @ x, atol=1e-5, rtol=1e-5)


def test_gates_are_regrouped_by_unit() -> None:
    gates = torch.arange(8.0)  # units 0 and 1, gates i i f f g g o o
    assert by_unit(gates).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def shape_of(weights: TdtWeights) -> KernelShape:
    return KernelShape(
        hidden=weights.hidden,
        layers=len(weights.layers),
        joint=weights.joint,
        vocabulary=weights.vocabulary,
        durations=weights.durations,
        max_symbols=weights.max_symbols,
        slots=8,
        columns=8,
        warps=8,
        joint_tiles=1,
        bfloat16=False,
    )


def test_joint_rows_are_tokens_blank_padding_then_durations(weights: TdtWeights) -> None:
    shape = shape_of(weights)
    packed = pack(weights, shape, shape.output_tiles)
    count, durations = weights.vocabulary, len(weights.durations)
    bias = packed.joint_bias.flatten()
    assert bias[:count].tolist() == weights.output.bias[:count].tolist()
    assert bias[-16 : -16 + durations].tolist() == weights.output.bias[count:].tolist()
    assert not bias[count:-16].any()


def test_first_layer_is_a_table_of_labels(weights: TdtWeights) -> None:
    shape = shape_of(weights)
    packed = pack(weights, shape, shape.output_tiles)
    layer = weights.layers[0]
    expected = by_unit(layer.w_ih @ weights.embedding[3] + layer.bias)
    torch.testing.assert_close(packed.label_gates[3], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.label_gates[weights.blank_id], by_unit(layer.bias))


def test_recurrent_products_are_prepared_for_a_state(weights: TdtWeights) -> None:
    hidden = torch.randn(2, len(weights.layers), weights.hidden)
    prepared = initial_recurrent(weights, hidden)
    for index, layer in enumerate(weights.layers):
        gates = layer.w_hh @ hidden[1, index] + (layer.bias if index else 0.0)
        torch.testing.assert_close(prepared[1, index], by_unit(gates), atol=1e-5, rtol=1e-5)
