from __future__ import annotations

import subprocess
import sys

import pytest

from harness.errors import UsageError
from variants import registry


def test_a_choice_is_a_module_of_its_axis() -> None:
    assert callable(registry.load("decoder", "cpu_synced"))


@pytest.mark.parametrize("name", ["os", "..", "os.system", "cpu_synced.build", "__init__", "Eager", ""])
def test_nothing_outside_the_axis_can_be_reached(name: str) -> None:
    with pytest.raises(UsageError, match="decoder"):
        registry.load("decoder", name)


def test_an_unknown_axis_lists_the_axes() -> None:
    with pytest.raises(UsageError, match="encoder, decoder"):
        registry.load("harness", "cli")


@pytest.mark.parametrize(
    ("model", "library", "imported"),
    [("parakeet_tiny", "nemo.collections.asr.modules", True), ("fixed_cost", "torch", False)],
)
def test_a_choice_is_imported_ahead_with_what_it_builds_from_and_no_more(
    model: str, library: str, imported: bool
) -> None:
    program = f"""
import sys
from variants import registry
registry.preload("model", {model!r})
sys.exit({library!r} in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == int(imported), done.stderr
