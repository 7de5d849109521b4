"""How texts are spelled before their words are compared (``runner.spelling``).

Whisper writes "$35" where a transcript says "thirty five dollars", and no count of words makes them the
same. Its authors' normalizers do (Radford et al. 2022, appendix C): the English one also writes out
contractions and unifies British spelling, the basic one is for any language and only drops marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.errors import UnavailableError

if TYPE_CHECKING:
    import pandas as pd

_CLASSES = {
    "whisper_english": ("whisper_normalizer.english", "EnglishTextNormalizer"),
    "whisper_basic": ("whisper_normalizer.basic", "BasicTextNormalizer"),
}


def spelled(rows: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """``rows`` of samples with ``text`` and ``reference_text`` as the run's configuration spells them.

    Raises ``UnavailableError`` where that needs a package which is missing.
    """
    name = spelling_of(config)
    if name == "as_is":
        return rows
    spell = normalizer(name)
    columns = {column: rows[column].map(spell, na_action="ignore") for column in ("text", "reference_text")}
    return rows.assign(**columns)


def spelling_of(config: Mapping[str, Any]) -> str:
    """Runs from before there was a choice do not state it."""
    return str(config.get("runner", {}).get("spelling", "as_is"))


@cache
def normalizer(name: str) -> Callable[[str], str]:
    """One of Whisper's; every text is spelled once. Raises ``UnavailableError``."""
    module, kind = _CLASSES[name]
    try:
        made: Callable[[str], str] = getattr(import_module(module), kind)()
    except ImportError as error:
        raise UnavailableError(
            f"runner.spelling={name} needs the package whisper-normalizer: pip install whisper-normalizer"
        ) from error
    return cache(made)
