"""What both GPU decoders ask of the machine before their kernels: a GPU, and the kernels for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from harness.errors import UnavailableError
from harness.protocols import BuildProgress
from variants.content_cache import ContentCache, user_cache
from variants.cuda.compiler import Cubin, compile_kernels

SHARED_HEADER = Path(__file__).with_name("tdt.cuh")


def require_gpu(decoder: str, device: torch.device, capability: tuple[int, int]) -> tuple[int, int]:
    """The device's compute capability. Raises ``UnavailableError`` without a GPU that is new enough."""
    if not torch.cuda.is_available():
        raise UnavailableError(f"decoder={decoder} needs an NVIDIA GPU; torch finds none here")
    if device.type != "cuda":
        raise UnavailableError(f"decoder={decoder} needs the model on the GPU; set model.device=cuda")
    found = torch.cuda.get_device_capability(device)
    if found < capability:
        raise UnavailableError(
            f"decoder={decoder} needs compute capability {capability[0]}.{capability[1]}, "
            f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}"
        )
    return found


def tdt_kernels(
    source: Path,
    macros: Mapping[str, str],
    capability: tuple[int, int],
    cache_dir: str | None,
    progress: BuildProgress,
) -> Cubin:
    """``source`` over ``tdt.cuh``, compiled or found under ``cache_dir``."""
    cache = Path(cache_dir) if cache_dir else user_cache("kernels")
    return compile_kernels(source, [SHARED_HEADER], macros, capability, ContentCache(cache), progress)
