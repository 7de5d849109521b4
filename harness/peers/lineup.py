"""What a leaf of ``conf/peers`` says: which engines hear the same weights, and how they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.paths import conf_dir
from harness.record.codec import from_json
from harness.yaml_file import read_yaml


@dataclass(frozen=True)
class Engine:
    """A choice of ``model=`` under the name that its users know. ``packages`` are the distributions whose
    versions say which engine it was."""

    title: str
    model: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineup:
    """The first of ``engines`` is ours: the others' words are held to its word error rate, which theirs may
    exceed by ``max_wer_difference`` before their speed is withheld.

    ``common`` are overrides of all, ``quick`` those that a trial adds. ``needs_weights``: none are embedded.
    """

    title: str
    engines: tuple[Engine, ...]
    common: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    max_wer_difference: float = 0.0
    needs_weights: bool = False

    def overrides(self, engine: Engine, given: Sequence[str] = (), quick: bool = False) -> list[str]:
        """Of one engine's run. Of two with the same key the later one stands: ``given`` come last."""
        own = (f"model={engine.model}", f"runner.label={engine.model}")
        after = (*self.common, *own, *(self.quick if quick else ()), *given)
        return list({override.partition("=")[0]: override for override in after}.values())

    def only(self, models: str | None) -> Lineup:
        """With the engines of ``models`` (``a,b``) alone, and ours. Raises ``UsageError`` naming others."""
        if models is None:
            return self
        wanted, known = models.split(","), [engine.model for engine in self.engines]
        if unknown := [name for name in wanted if name not in known]:
            raise UsageError(f"--models: there is no {unknown[0]} among them; there are {', '.join(known)}")
        chosen = [engine for engine in self.engines if engine.model in wanted]
        return replace(self, engines=tuple(dict.fromkeys((self.engines[0], *chosen))))


def read_lineup(name: str) -> Lineup:
    """Raises ``UsageError`` that lists those that there are, or names the file and the key."""
    path = _folder() / f"{name}.yaml"
    if name not in lineups():
        raise UsageError(f"--of {name}: there is no such line-up; there are {', '.join(lineups())}")
    lineup: Lineup = from_json(Lineup, read_yaml(path), str(path))
    if not lineup.engines:
        raise UsageError(f"{path}: 'engines' names none")
    return lineup


def lineups() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return conf_dir() / "peers"
