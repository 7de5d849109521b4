"""Parakeet-TDT: a FastConformer encoder and a token-and-duration transducer, from NeMo's own modules.

FastConformer: Rekesh et al. 2023, arXiv:2305.05084. TDT: Xu et al. 2023, arXiv:2304.06795.
One frozen ``TdtArchitecture`` names every size; the large and the tiny model differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from variants.content_cache import user_home
from variants.onnx_sessions import forbid_telemetry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TdtArchitecture:
    """Every size of a Parakeet. The joint emits ``vocab_size`` tokens, blank, then the durations."""

    feature_bins: int
    d_model: int
    layers: int
    heads: int
    ff_expansion: int
    conv_kernel: int
    subsampling_factor: int
    subsampling_channels: int
    pos_emb_max_len: int
    vocab_size: int
    pred_hidden: int
    pred_layers: int
    joint_hidden: int
    durations: tuple[int, ...] = (0, 1, 2, 3, 4)
    max_symbols: int = 10
    hop_s: float = 0.01

    @property
    def blank_id(self) -> int:
        """Blank follows the tokens; its embedding is the zero row, so it is the start symbol too."""
        return self.vocab_size

    @property
    def frame_s(self) -> float:
        """Seconds of audio per encoder frame."""
        return self.hop_s * self.subsampling_factor


PARAKEET_TDT_0_6B_V3 = TdtArchitecture(
    feature_bins=128,
    d_model=1024,
    layers=24,
    heads=8,
    ff_expansion=4,
    conv_kernel=9,
    subsampling_factor=8,
    subsampling_channels=256,
    pos_emb_max_len=5000,
    vocab_size=8192,
    pred_hidden=640,
    pred_layers=2,
    joint_hidden=640,
)
PARAKEET_TDT_0_6B_V3_PARAMETERS = 627_008_134

PARAKEET_TINY = TdtArchitecture(
    feature_bins=128,
    d_model=176,
    layers=8,
    heads=4,
    ff_expansion=4,
    conv_kernel=9,
    subsampling_factor=8,
    subsampling_channels=128,
    pos_emb_max_len=5000,
    vocab_size=512,
    pred_hidden=256,
    pred_layers=1,
    joint_hidden=256,
)

Modules = tuple["torch.nn.Module", "torch.nn.Module", "torch.nn.Module"]


def _before_nemo() -> None:
    """It looks for a home, and what it imports imports ONNX Runtime (torchmetrics does)."""
    user_home()
    forbid_telemetry()


def preload() -> None:
    """Import NeMo's modules: up to half a minute that a process can spend while another has its turn."""
    _before_nemo()
    import nemo.collections.asr.modules  # noqa: F401


def asr_models() -> Any:
    """NeMo's whole models."""
    _before_nemo()
    import nemo.collections.asr.models as models

    return models


def build_modules(architecture: TdtArchitecture, *, initialize: bool = True) -> Modules:
    """``(encoder, prednet, joint)`` on the CPU in float32, in training mode as NeMo leaves them.

    ``initialize=False`` skips torch's random initialization (half a minute for 0.6 B parameters on
    one slow core): every parameter then has to be filled by the caller.
    """
    with random_initialization(initialize):
        return _build_encoder(architecture), *build_transducer(architecture)


def _build_encoder(size: TdtArchitecture) -> torch.nn.Module:
    _before_nemo()
    from nemo.collections.asr.modules import ConformerEncoder

    encoder: torch.nn.Module = ConformerEncoder(**encoder_arguments(size))
    return encoder


def build_transducer(size: TdtArchitecture) -> tuple[torch.nn.Module, torch.nn.Module]:
    """``(prednet, joint)`` alone."""
    _before_nemo()
    from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint

    return RNNTDecoder(**prednet_arguments(size)), RNNTJoint(**joint_arguments(size))


def encoder_arguments(size: TdtArchitecture) -> dict[str, Any]:
    """Of NeMo's ``ConformerEncoder``."""
    return {
        "feat_in": size.feature_bins,
        "n_layers": size.layers,
        "d_model": size.d_model,
        "n_heads": size.heads,
        "ff_expansion_factor": size.ff_expansion,
        "subsampling": "dw_striding",
        "subsampling_factor": size.subsampling_factor,
        "subsampling_conv_channels": size.subsampling_channels,
        "conv_kernel_size": size.conv_kernel,
        "conv_norm_type": "batch_norm",
        "self_attention_model": "rel_pos",
        "att_context_size": [-1, -1],
        "pos_emb_max_len": size.pos_emb_max_len,
        "use_bias": False,
        "xscaling": False,
    }


def prednet_arguments(size: TdtArchitecture) -> dict[str, Any]:
    """Of NeMo's ``RNNTDecoder``."""
    layers = {"pred_hidden": size.pred_hidden, "pred_rnn_layers": size.pred_layers}
    return {"prednet": layers, "vocab_size": size.vocab_size}


def joint_arguments(size: TdtArchitecture) -> dict[str, Any]:
    """Of NeMo's ``RNNTJoint``."""
    return {
        "jointnet": {
            "encoder_hidden": size.d_model,
            "pred_hidden": size.pred_hidden,
            "joint_hidden": size.joint_hidden,
            "activation": "relu",
        },
        "num_classes": size.vocab_size,
        "num_extra_outputs": len(size.durations),
        # NeMo's default normalizes on the CPU and not on a GPU. Greedy search needs neither.
        "log_softmax": False,
    }


def keep_layers(encoder: Any, layers: int | None, name: str) -> int:
    """Cut a ``ConformerEncoder`` to its first ``layers`` (None: leave it whole). Returns how many it had.

    Raises ``UsageError`` that names the model where it has fewer.
    """
    depth = len(encoder.layers)
    if layers is not None:
        check_depth(layers, depth, name)
        encoder.layers = encoder.layers[:layers]
        encoder.layer_drop_probs = encoder.layer_drop_probs[:layers]
        encoder.n_layers = layers
    return depth


def check_depth(layers: int, depth: int, name: str) -> None:
    if not 1 <= layers <= depth:
        raise UsageError(f"model.layers={layers}: the encoder of {name} has {depth}; choose 1 to {depth}")


def parameter_count(modules: Modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def check_parameter_count(modules: Modules, expected: int) -> None:
    """Raise when an upgrade of NeMo silently changed the architecture under measurement."""
    found = parameter_count(modules)
    if found != expected:
        raise HarnessError(
            f"the architecture has {found:,} parameters, not {expected:,}: the installed nemo_toolkit "
            "builds another model; install the version pinned in the constraints file"
        )


@contextmanager
def random_initialization(enabled: bool) -> Iterator[None]:
    """Let ``torch.nn.init`` fill tensors, or turn each of its functions into a no-op."""
    if enabled:
        yield
        return
    from torch.overrides import TorchFunctionMode

    class SkipInitialization(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
            return func(*args, **(kwargs or {}))

    with SkipInitialization():
        yield
