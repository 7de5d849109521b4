"""Where the project's data files are: beside the packages in a checkout, inside them in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The Hydra configuration tree."""
    return _data_dir("conf")


def datasets_dir() -> Path:
    """Specifications of audio sets, and the texts to speak."""
    return _data_dir("datasets")


def reference_dir() -> Path:
    """Committed results of named machines; a wheel has none, and the folder does not exist there."""
    return _PACKAGE.parent / "results" / "reference"


def _data_dir(name: str) -> Path:
    checkout = _PACKAGE.parent / name
    # A stray folder of the same name beside an installed package (site-packages holds the package
    # "datasets") must not pass for ours: only a checkout has the project file next to it.
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    return _PACKAGE / f"_{name}"
