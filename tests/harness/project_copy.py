"""A copy of the project in a temporary folder, to add variants to it as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.paths import conf_dir, datasets_dir

_ROOT = conf_dir().parent


@dataclass(frozen=True)
class ProjectCopy:
    root: Path
    cache: Path

    @classmethod
    def make(cls, root: Path, cache: Path) -> ProjectCopy:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        for source in (_ROOT / "harness", _ROOT / "variants", conf_dir(), datasets_dir()):
            shutil.copytree(source, root / source.name, ignore=ignore)
        shutil.copy(_ROOT / "pyproject.toml", root)
        return cls(root, cache)

    def add(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python ARGUMENTS`` in the copy, which shadows the installed project."""
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def harness(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "harness", f"runner.cache_dir={self.cache}", *overrides)

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in (self.root / "results").glob("*/run.json"))
