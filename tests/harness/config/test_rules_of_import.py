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

#: What variants may know of the harness: the seams, the clock, the errors and the small audio library.
SEAMS = ("harness.protocols.", "harness.spans.", "harness.errors.", "harness.audio.")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", sorted(VARIANTS.rglob("*.py")), ids=lambda p: str(p.relative_to(VARIANTS)))
def test_variants_know_only_the_seams_of_the_harness(path: Path) -> None:
    ending = {"harness.command"} if '__name__ == "__main__"' in path.read_text() else set()
    known = {name for name in imported(path) if name.split(".")[0] == "harness"} - ending
    assert {name for name in known if not f"{name}.".startswith(SEAMS)} == set()


@pytest.mark.parametrize("path", sorted(HARNESS.rglob("*.py")), ids=lambda p: str(p.relative_to(HARNESS)))
def test_the_harness_reaches_variants_through_the_registry(path: Path) -> None:
    allowed = {"variants", "variants.registry"}
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
