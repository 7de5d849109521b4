"""The model card: the part that a person writes stays, the measured part is written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from training.evaluate import SEED, Outcome, table
from training.export import DESCRIPTION

CARD = "MODEL_CARD.md"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_card(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Put ``outcomes`` and the checksums between the marks of the card in ``folder``.

    Raises ``UsageError`` where there is no card or where it lacks the marks.
    """
    path = folder / CARD
    if not path.is_file():
        raise UsageError(f"{path}: no model card to write to; leave --card out")
    text = path.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise UsageError(f"{path}: needs one line {_BEGIN!r} and one line {_END!r} after it")
    measured = f"{_BEGIN}\n{_measured(folder, outcomes)}\n{_END}"
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    path.write_text(pattern.sub(lambda _: measured, text), encoding="utf-8")


def _measured(folder: Path, outcomes: Mapping[str, Outcome]) -> str:
    checksums = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["sha256"]
    utterances = min(len(outcome.pairs) for outcome in outcomes.values())
    lines = [
        f"{utterances} sentences per condition, seed {SEED}, on the CPU in float32:",
        "",
        table(outcomes),
        "",
    ]
    lines += [f"- `{name}` sha256 `{digest}`" for name, digest in checksums.items()]
    return "\n".join(lines)
