"""What the README promises exists."""

from __future__ import annotations

import re
import shlex

import pytest

from harness.config.load import compose_run
from harness.paths import conf_dir, datasets_dir

README = (conf_dir().parent / "README.md").read_text()
COMMANDS = re.findall(r"^    (python -m harness [^#\n]*[^#\s])", README, re.MULTILINE)


def test_every_variant_and_audio_set_is_listed() -> None:
    for folder in (conf_dir() / "variant", datasets_dir()):
        for path in folder.glob("*.yaml"):
            assert f"`{path.stem}`" in README, f"{path.name} is missing from the README's table"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_line_composes(command: str) -> None:
    """But for paths and names that stand for the reader's own."""
    overrides = [word for word in shlex.split(command)[3:] if not word.startswith("-")]
    made_up = ("decoder=mine", "dataset.manifest=", "model.weights=/")
    for override in overrides:
        if not override.startswith(made_up) and "," not in override:
            compose_run([override])


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (conf_dir().parent / target).exists(), target
