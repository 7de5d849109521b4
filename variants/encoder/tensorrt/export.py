"""The encoder as an ONNX graph with dynamic batch and time.

Inputs ``features`` float32 ``[B, F, T]`` and ``lengths`` int32 ``[B]`` (8.6 takes no 64-bit integers);
outputs ``states`` ``[B, T', D]`` in the model's number type and ``state_lengths`` int32 ``[B]``. The graph
itself is in that type, as a strongly typed network wants it; only the features are cast inside.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError, UnavailableError
from variants.encoder.tensorrt import fp8 as quantization
from variants.encoder.tensorrt.spec import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from variants.models.types import TdtModel

OPSET = 17
SCHEME = 5
"""Part of an export's key: raise it whenever the graph made here changes."""
FILE_NAME = "encoder.onnx"
_TRACED = (2, 97)  # batch and frames of the example; neither may be 1 or equal to another size


class ExportedEncoder(torch.nn.Module):
    """What the graph computes. With ``taps``, every layer's output is an output too, for bisection."""

    def __init__(self, encoder: torch.nn.Module, taps: bool = False) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.taps = taps
        # torch.onnx.export restores the training flag of the outermost module on all of its children:
        # were this one left in training mode, BatchNorm would go back to it after the export.
        self.eval()

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dtype = next(self.encoder.parameters()).dtype
        with _recorded(self.tapped() if self.taps else {}) as taps:
            states, state_lengths = self.encoder.forward_internal(features.to(dtype), lengths.to(torch.int64))
        return states.transpose(1, 2), state_lengths.to(torch.int32), *taps.values()

    def tapped(self) -> dict[str, torch.nn.Module]:
        """Modules whose output is compared, in the order in which they run."""
        names = {"pre_encode": self.encoder.pre_encode}
        return names | {f"layers.{index}": layer for index, layer in enumerate(self.encoder.layers)}


class WholeLengths(torch.nn.ModuleList):
    """NeMo's ``MaskedConvSequential`` with lengths that stay integers.

    NeMo halves them in float32. Where a builder may choose 16 bits for any float (TensorRT 8.6), 3,001
    frames are not told from 3,000: half has every integer up to 2,048, and the last frame of an utterance
    of 30 s is masked away. Whatever is not a float nobody rounds.

    Frames beyond a length are silenced where a kernel would mix them into valid ones, not after every
    layer: what is left in them otherwise, attention and the layers' convolutions mask themselves.
    """

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, T, F]`` and ``[B]`` to ``[B, C, T', F']`` and ``[B]``."""
        x = x.unsqueeze(1)
        for each in self:
            layer: Any = each
            if not isinstance(layer, torch.nn.Conv2d):
                x = layer(x)
                continue
            if layer.kernel_size != (1, 1):
                x = _silenced(x, lengths)
            x = layer(x)
            if layer.stride != (1, 1):
                stride, padding = layer.stride[0], int(layer.padding[0])
                room = 2 * padding - layer.kernel_size[0] + stride
                lengths = torch.div(lengths + room, stride, rounding_mode="trunc")
        return x, lengths


def _silenced(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``[B, C, T, F]`` with zeros from each length on. The mask is as wide as ``x``, as NeMo's is: an engine
    of TensorRT 8.6.0 in which it was spread over the channels gave wrong states in two of five profiles."""
    valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None]  # [B, T]
    return x * valid[:, None, :, None].to(x.dtype).expand_as(x)


@contextlib.contextmanager
def _recorded(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of ``modules`` during the block, in order."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def export(
    model: TdtModel, folder: Path, longest_frames: int, *, taps: bool = False, fp8: bool = False
) -> list[str]:
    """Write ``encoder.onnx`` (and its weights beside it, above 2 GB) into the empty ``folder``.

    Exports a copy on the CPU: the model in use is not touched. ``fp8``: see that module. Returns the names of
    the outputs. Raises ``UnavailableError`` without the package ``onnx``, ``HarnessError`` where torch cannot
    export.
    """
    onnx = _onnx()
    wrapped = ExportedEncoder(_cpu_copy(model, max(longest_frames, _TRACED[1])), taps)
    rows, frames = _TRACED
    example = (
        torch.zeros(rows, model.feature_bins, frames),
        torch.tensor([frames, frames // 2], dtype=torch.int32),
    )
    outputs = [*OUTPUTS, *(wrapped.tapped() if taps else ())]
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "frames_out"} for name in outputs}
    axes |= {INPUTS[0]: {0: "batch", 2: "frames"}, INPUTS[1]: {0: "batch"}, OUTPUTS[1]: {0: "batch"}}
    path = folder / FILE_NAME
    try:
        with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                wrapped,
                example,
                str(path),
                input_names=list(INPUTS),
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=quantization.OPSET if fp8 else OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise HarnessError(f"torch {torch.__version__} could not export the encoder: {error}") from error
    if fp8:
        quantization.quantize(model, path)
    gather_weights(onnx, path)
    return outputs


def export_key(model: TdtModel, longest_frames: int, fp8: bool = False) -> str | None:
    """Key of an export by what it is made of; None for weights that have no hash and are exported anew."""
    import nemo

    weights = model.provenance.get("weights_hash")
    if not weights:
        return None
    versions = [torch.__version__, nemo.__version__]
    content = [SCHEME, OPSET, weights, str(model.dtype), fp8, longest_frames, *versions]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _cpu_copy(model: TdtModel, longest_frames: int) -> Any:
    """A copy whose table of positions ends at ``longest_frames``: the table is a constant of the graph.
    Raises ``HarnessError`` for a subsampling whose lengths it cannot keep whole."""
    encoder: Any = copy.deepcopy(model.encoder).cpu().eval()
    convolutions = encoder.pre_encode.conv
    if type(convolutions).__name__ != "MaskedConvSequential" or encoder.pre_encode.is_causal:
        raise HarnessError(
            f"the export knows no subsampling by {type(convolutions).__name__}, or causal: Parakeet has "
            "MaskedConvSequential"
        )
    encoder.pre_encode.conv = WholeLengths(convolutions)
    del encoder.pos_enc.pe
    encoder.set_max_audio_length(longest_frames // encoder.subsampling_factor + 2)
    return encoder


def gather_weights(onnx: Any, path: Path) -> None:
    """Weights beside ``path`` into one file: above protobuf's 2 GB torch writes a file per tensor."""
    parts = [part for part in path.parent.iterdir() if part != path]
    if not parts:
        return
    graph = onnx.load(str(path))
    for part in parts:
        part.unlink()
    onnx.save_model(
        graph,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{FILE_NAME}.weights",
    )


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UnavailableError(
            "the Python package 'onnx' is not installed: pip install '.[tensorrt]'"
        ) from error
    return onnx
