"""The numbers behind a TDT decoder, taken out of NeMo's modules once.

Shapes: V tokens, H the prediction network's width, L its layers, J the joint's width, E the encoder's,
D durations. Tensors are views of the modules' parameters, on the model's device in its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import UsageError

if TYPE_CHECKING:
    from variants.models.types import TdtModel


@dataclass(frozen=True, slots=True)
class LstmLayer:
    """One LSTM layer; gates in PyTorch's order: input, forget, candidate, output."""

    w_ih: torch.Tensor  # [4H, H]
    w_hh: torch.Tensor  # [4H, H]
    bias: torch.Tensor  # float32 [4H], the sum of both biases


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer."""

    weight: torch.Tensor  # [out, in]
    bias: torch.Tensor  # [out]


@dataclass(frozen=True, slots=True)
class TdtWeights:
    """A prediction network and a joint, ready for kernels. ``output`` rows: tokens, blank, durations."""

    embedding: torch.Tensor  # [V + 1, H], zero for blank
    layers: tuple[LstmLayer, ...]
    encoder: Projection  # [J, E]
    prediction: Projection  # [J, H]
    output: Projection  # [V + 1 + D, J]
    durations: tuple[int, ...]
    blank_id: int
    max_symbols: int

    @property
    def hidden(self) -> int:
        return int(self.layers[0].w_hh.shape[1])

    @property
    def joint(self) -> int:
        return int(self.prediction.weight.shape[0])

    @property
    def vocabulary(self) -> int:
        """Tokens and blank."""
        return self.blank_id + 1


def extract(model: TdtModel) -> TdtWeights:
    """The decoder's weights. Raises ``UsageError`` for a network that these kernels do not compute."""
    prednet: Any = model.prednet
    joint: Any = model.joint
    embedding = prednet.prediction["embed"].weight
    if embedding.shape[0] != model.blank_id + 1:
        raise UsageError(
            f"model {model.name}: the prediction network embeds {embedding.shape[0]} labels, not "
            f"{model.blank_id + 1}: only blank_as_pad networks are supported; use decoder=cpu_synced"
        )
    weights = TdtWeights(
        embedding=embedding,
        layers=_lstm_layers(model, prednet),
        encoder=_projection(joint.enc),
        prediction=_projection(joint.pred),
        output=_output(model, joint.joint_net),
        durations=model.durations,
        blank_id=model.blank_id,
        max_symbols=model.max_symbols,
    )
    expected = weights.vocabulary + len(weights.durations)
    if weights.output.weight.shape[0] != expected:
        raise UsageError(
            f"model {model.name}: the joint has {weights.output.weight.shape[0]} outputs, not {expected} "
            "(tokens, blank, durations); use decoder=cpu_synced"
        )
    return weights


def _projection(layer: Any) -> Projection:
    bias = layer.bias if layer.bias is not None else torch.zeros_like(layer.weight[:, 0])
    return Projection(layer.weight.detach(), bias.detach())


def _output(model: TdtModel, joint_net: Any) -> Projection:
    """The joint's last layer; before it only a ReLU and dropout, which ``eval()`` turns off."""
    activation, last = joint_net[0], joint_net[-1]
    if not isinstance(activation, torch.nn.ReLU) or not isinstance(last, torch.nn.Linear):
        raise UsageError(
            f"model {model.name}: the joint is {type(activation).__name__} … {type(last).__name__}, not "
            "ReLU … Linear; use decoder=cpu_synced"
        )
    return _projection(last)


def _lstm_layers(model: TdtModel, prednet: Any) -> tuple[LstmLayer, ...]:
    lstm = getattr(prednet.prediction["dec_rnn"], "lstm", None)
    if not isinstance(lstm, torch.nn.LSTM) or lstm.proj_size or lstm.bidirectional or not lstm.bias:
        raise UsageError(
            f"model {model.name}: the prediction network is not a plain LSTM with biases (normalized, "
            "projected or bidirectional); use decoder=cpu_synced"
        )
    return tuple(_lstm_layer(lstm, index) for index in range(lstm.num_layers))


def _lstm_layer(lstm: torch.nn.LSTM, index: int) -> LstmLayer:
    w_ih, w_hh, b_ih, b_hh = (
        getattr(lstm, f"{name}_l{index}").detach()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return LstmLayer(w_ih, w_hh, b_ih.float() + b_hh.float())
