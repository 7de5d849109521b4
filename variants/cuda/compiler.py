"""CUDA C++ to machine code by NVRTC, once per machine: results are kept on disk.

The key of a kept result is everything that decides it: sources, macros, architecture, compiler version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UnavailableError
from harness.protocols import BuildProgress, silent
from variants.content_cache import ContentCache
from variants.cuda.bindings import CudaError, call, load

_FILE = "kernels.cubin"


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code; ``cached`` tells whether it was found on disk."""

    image: bytes
    key: str
    cached: bool


def compile_kernels(
    source: Path,
    headers: Sequence[Path],
    macros: Mapping[str, str],
    capability: tuple[int, int],
    cache: ContentCache,
    progress: BuildProgress = silent,
) -> Cubin:
    """Compile ``source``, which may include ``headers`` by their names, for ``capability``.

    Raises ``CudaError`` with the compiler's log, ``UnavailableError`` where NVRTC is missing, and
    ``HarnessError`` naming the folder where the result cannot be kept.
    """
    nvrtc = load("nvrtc")
    try:
        version = call(nvrtc.nvrtcVersion)
    except Exception as error:  # the bindings raise RuntimeError for a library that is not there
        raise UnavailableError(f"NVRTC cannot be loaded ({error}): install nvidia-cuda-nvrtc") from error
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17", "--generate-line-info"]
    options += [f"-D{name}={value}" for name, value in sorted(macros.items())]
    texts = {path.name: path.read_bytes() for path in (source, *headers)}
    key = hashlib.sha256(repr((texts, options, version)).encode()).hexdigest()[:32]
    kept = cache.get(key)
    if kept is not None:
        return Cubin((kept / _FILE).read_bytes(), key, cached=True)
    progress(f"compiling {source.parent.name}/{source.name}")
    image = _compile(nvrtc, source.name, texts, options)
    with cache.create(key) as folder:
        (folder / _FILE).write_bytes(image)
    return Cubin(image, key, cached=False)


def _compile(nvrtc: Any, name: str, texts: Mapping[str, bytes], options: Sequence[str]) -> bytes:
    headers = {other.encode(): text for other, text in texts.items() if other != name}
    program = call(
        nvrtc.nvrtcCreateProgram, texts[name], name.encode(), len(headers), [*headers.values()], [*headers]
    )
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
