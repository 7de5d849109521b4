"""The CUDA layer where there is no GPU: the compiler runs, kernels are kept, errors are words."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExitCode, UnavailableError
from variants.content_cache import ContentCache
from variants.cuda.bindings import CudaError, call, load
from variants.cuda.compiler import Cubin, compile_kernels
from variants.cuda.kernels import Arguments
from variants.decoder import conditional_graph, megakernel
from variants.decoder.gpu.kernels import SHARED_HEADER
from variants.decoder.gpu.shape import KernelShape

HOPPER = (9, 0)
SMALL = KernelShape(
    hidden=64,
    layers=2,
    joint=64,
    vocabulary=100,
    durations=(0, 1, 2),
    max_symbols=3,
    slots=8,
    columns=8,
    warps=2,
    joint_tiles=1,
    bfloat16=False,
)


def has_nvrtc() -> bool:
    try:
        call(load("nvrtc").nvrtcVersion)
    except Exception:  # the bindings raise RuntimeError for a library that is not there
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")


def compiled(source: Path, cache: Path, said: list[str], **macros: str) -> Cubin:
    def progress(what: str, *_counts: int, **_named: int) -> None:
        said.append(what)

    return compile_kernels(source, [SHARED_HEADER], macros, HOPPER, ContentCache(cache), progress)


@needs_nvrtc
def test_kernels_are_compiled_once_and_found_again(tmp_path: Path) -> None:
    source, said = tmp_path / "scale.cu", list[str]()
    source.write_text('extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= FACTOR; }')
    first = compiled(source, tmp_path / "cache", said, FACTOR="2")
    again = compiled(source, tmp_path / "cache", said, FACTOR="2")
    other = compiled(source, tmp_path / "cache", said, FACTOR="3")
    assert first.image.startswith(b"\x7fELF")
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert (again.image, other.key == first.key) == (first.image, False)
    assert len(said) == 2 and "scale.cu" in said[0]


@needs_nvrtc
def test_what_does_not_compile_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void broken() { unknown_function(); }')
    with pytest.raises(CudaError, match=r"broken\.cu does not compile(?s:.*)unknown_function"):
        compiled(source, tmp_path / "cache", [])
    assert list((tmp_path / "cache").glob("*")) == []


@needs_nvrtc
@pytest.mark.parametrize("decoder", [conditional_graph, megakernel], ids=lambda module: module.NAME)
def test_the_decoders_kernels_compile_without_a_gpu(decoder: Any, tmp_path: Path) -> None:
    (source,) = Path(decoder.__file__).parent.glob("*.cu")
    macros = SMALL.macros()
    if decoder is megakernel:
        layout = megakernel.plan_layout(SMALL, blocks=16)
        macros |= {**layout.macros(), "SPIN_LIMIT": "1000", "DIRECT_COLUMNS": "1", "PROFILE": "0"}
    assert compiled(source, tmp_path, [], **macros).image.startswith(b"\x7fELF")


def test_a_failing_call_names_itself_and_its_code() -> None:
    class Status(int):
        name = "cudaErrorMemoryAllocation"

    with pytest.raises(CudaError, match="cudaMalloc failed: cudaErrorMemoryAllocation") as raised:
        call(returning("cudaMalloc", Status(2)))
    assert raised.value.exit_code is ExitCode.INTERNAL


def returning(name: str, *results: Any) -> Any:
    def function() -> tuple[Any, ...]:
        return results

    function.__name__ = name
    return function


def test_results_come_without_the_status() -> None:
    assert call(returning("none", 0)) == ()
    assert call(returning("one", 0, "a")) == "a"
    assert call(returning("two", 0, "a", "b")) == ("a", "b")


def test_arguments_are_addresses_of_values_that_may_change() -> None:
    class Table(ctypes.Structure):
        _fields_ = (("first", ctypes.c_int), ("second", ctypes.c_int))

    table = Table(1, 2)
    arguments = Arguments(table)
    table.second = 7
    pointer = ctypes.c_void_p.from_address(arguments.address).value
    assert pointer is not None
    assert Table.from_address(pointer).second == 7


def test_missing_bindings_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nothing", None)
    with pytest.raises(UnavailableError, match=r"pip install 'cuda-python>=12\.6'"):
        load("nothing")


def test_the_layer_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import variants.cuda.compiler, variants.cuda.graphs, "
        "variants.cuda.device, variants.encoder.tensorrt.run"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
