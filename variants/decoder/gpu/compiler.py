"""CUDA C++ to machine code by NVRTC, once per machine: results are kept on disk.

The key of a kept result is everything that decides it: sources, macros, architecture, compiler version.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UnavailableError
from variants.decoder.gpu.driver import CudaError, bindings, call

SHARED_HEADER = Path(__file__).with_name("tdt.cuh")


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code; ``cached`` tells whether it was found on disk."""

    image: bytes
    key: str
    cached: bool


def compile_kernels(
    source: Path, macros: Mapping[str, str], capability: tuple[int, int], cache_dir: Path
) -> Cubin:
    """Compile ``source`` (which may include ``tdt.cuh``) for ``capability``.

    Raises ``CudaError`` with the compiler's log, or ``UnavailableError`` where NVRTC is missing.
    """
    _, nvrtc = bindings()
    try:
        version = call(nvrtc.nvrtcVersion)
    except Exception as error:
        raise UnavailableError(f"NVRTC cannot be loaded ({error}): install nvidia-cuda-nvrtc") from error
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17", "--generate-line-info"]
    options += [f"-D{name}={value}" for name, value in sorted(macros.items())]
    texts = [source.read_bytes(), SHARED_HEADER.read_bytes()]
    digest = hashlib.sha256(repr((texts, options, version)).encode()).hexdigest()[:32]
    kept = cache_dir / f"{source.parent.name}-{digest}.cubin"
    if kept.is_file():
        return Cubin(kept.read_bytes(), digest, cached=True)
    image = _compile(nvrtc, texts[0], source.name, texts[1], options)
    _keep(kept, image)
    return Cubin(image, digest, cached=False)


def _compile(nvrtc: Any, text: bytes, name: str, header: bytes, options: list[str]) -> bytes:
    program = call(nvrtc.nvrtcCreateProgram, text, name.encode(), 1, [header], [SHARED_HEADER.name.encode()])
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if int(status) != 0:
            raise CudaError(f"{name} does not compile with {' '.join(options)}:\n{_log(nvrtc, program)}")
        image = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
        call(nvrtc.nvrtcGetCUBIN, program, image)
        return bytes(image)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(nvrtc: Any, program: Any) -> str:
    log = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
    call(nvrtc.nvrtcGetProgramLog, program, log)
    return bytes(log).rstrip(b"\0").decode(errors="replace")


def _keep(path: Path, image: bytes) -> None:
    """Write so that another process sees the whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(image)
        Path(file.name).replace(path)
    except OSError as error:
        raise CudaError(f"{path} cannot be written ({error}): set decoder.options.cache_dir") from error
