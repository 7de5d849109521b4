"""The arrows between the folders, read off the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
import variants

HARNESS = Path(harness.__file__).parent
VARIANTS = Path(variants.__file__).parent

#: What variants may know of the harness: the seams, the clock and the errors.
SEAMS = {
    "harness.protocols",
    "harness.protocols.children",
    "harness.protocols.folders",
    "harness.protocols.interrupts",
    "harness.protocols.server",
    "harness.protocols.sockets",
    "harness.protocols.wire",
    "harness.spans",
    "harness.errors",
}
AUDIO = "harness.audio"
"""The small audio library, which both sides use."""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def served(path: Path) -> bool:
    """Benchmarks of one part are commands, not variants: they may use the harness's statistics."""
    return path.stem != "bench"


@pytest.mark.parametrize(
    "path", sorted(filter(served, VARIANTS.rglob("*.py"))), ids=lambda p: str(p.relative_to(VARIANTS))
)
def test_variants_know_only_the_seams_of_the_harness(path: Path) -> None:
    known = {name for name in imported(path) if name.split(".")[0] == "harness"}
    assert {name for name in known if not name.startswith(AUDIO)} <= SEAMS


@pytest.mark.parametrize("path", sorted(HARNESS.rglob("*.py")), ids=lambda p: str(p.relative_to(HARNESS)))
def test_the_harness_reaches_variants_through_the_registry(path: Path) -> None:
    allowed = {"variants", "variants.registry", "variants.frontend.config"}
    assert {name for name in imported(path) if name.split(".")[0] == "variants"} <= allowed


def test_preprocessing_imports_neither_torch_nor_nemo() -> None:
    code = (
        "import sys; from variants.frontend.config import FrontendConfig; "
        "from variants.frontend.host import build; "
        "build(FrontendConfig(vad='silero', denoise='webrtc')); "
        "print(sorted({'torch', 'nemo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
