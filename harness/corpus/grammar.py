"""Sentences drawn from a grammar: text that is new every time while its words are known.

A grammar is a YAML file of two keys: ``start`` names a rule, and ``rules`` maps each rule's name to its
alternatives. An alternative is a text, or ``{text: ..., weight: ...}``; ``{name}`` inside a text stands
for a sentence of the rule ``name``. Rules never lead back to themselves, so that every sentence ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.paths import datasets_dir
from harness.yaml_file import read_yaml

_TEXT = re.compile(r"(?:[a-z' ]|\{[a-z_]+\})+")
_REFERENCE = re.compile(r"\{([a-z_]+)\}")


class MalformedGrammarError(Exception):
    """What is wrong with a grammar, before the name of its file is known."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Alternatives as split texts (odd positions are rule names) and their cumulative chances."""

    alternatives: tuple[tuple[str, ...], ...]
    cumulative: tuple[float, ...]

    def references(self) -> Iterator[str]:
        for parts in self.alternatives:
            yield from parts[1::2]

    def texts(self) -> Iterator[str]:
        for parts in self.alternatives:
            yield from parts[::2]

    def pick(self, rng: np.random.Generator) -> tuple[str, ...]:
        return self.alternatives[bisect_right(self.cumulative, rng.random())]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A validated grammar. Sentences are lower case: letters, apostrophes and single spaces."""

    start: str
    _rules: Mapping[str, _Rule]

    @classmethod
    def load(cls, path: Path | None = None) -> Grammar:
        """Read ``path``, or the project's own grammar of everyday voice-agent speech.

        Raises ``UsageError`` that names the file and the rule, for anything but a grammar whose
        sentences all end.
        """
        path = path or datasets_dir() / "texts" / "voice_agent.yaml"
        try:
            return cls._parse(read_yaml(path))
        except MalformedGrammarError as error:
            raise UsageError(f"{path}: {error}") from error

    @classmethod
    def _parse(cls, content: Any) -> Grammar:
        if not isinstance(content, dict) or set(content) != {"start", "rules"}:
            raise MalformedGrammarError("a grammar has exactly the keys 'start' and 'rules'")
        start, rules = content["start"], content["rules"]
        if not isinstance(rules, dict):
            raise MalformedGrammarError("'rules' must map each rule's name to its alternatives")
        parsed = {_rule_name(name): _parse_rule(name, alternatives) for name, alternatives in rules.items()}
        if start not in parsed:
            raise MalformedGrammarError(f"'start' names the rule {start!r}, which 'rules' lacks")
        _check_references(start, parsed)
        return cls(start, parsed)

    def sentence(self, rng: np.random.Generator) -> str:
        """One sentence; the same state of ``rng`` gives the same sentence."""
        return " ".join("".join(self._expand(self.start, rng)).split())

    def words(self) -> frozenset[str]:
        """Every word that a sentence may contain."""
        return frozenset(
            word for rule in self._rules.values() for text in rule.texts() for word in text.split()
        )

    def _expand(self, rule: str, rng: np.random.Generator) -> Iterator[str]:
        for position, part in enumerate(self._rules[rule].pick(rng)):
            if position % 2:
                yield from self._expand(part, rng)
            else:
                yield part


def _rule_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch("[a-z_]+", name):
        raise MalformedGrammarError(f"rule name {name!r}: use lower-case letters and underscores")
    return name


def _parse_rule(name: str, alternatives: Any) -> _Rule:
    if not isinstance(alternatives, list) or not alternatives:
        raise MalformedGrammarError(f"rule {name!r}: give a list of at least one alternative")
    parsed = [_parse_alternative(name, alternative) for alternative in alternatives]
    texts = [text for text, _ in parsed]
    if repeated := {text for text in texts if texts.count(text) > 1}:
        raise MalformedGrammarError(f"rule {name!r}: {min(repeated)!r} is there twice; use a weight instead")
    total = sum(weight for _, weight in parsed)
    cumulative = tuple(share / total for share in accumulate(weight for _, weight in parsed[:-1]))
    return _Rule(tuple(tuple(_REFERENCE.split(text)) for text in texts), cumulative)


def _parse_alternative(rule: str, alternative: Any) -> tuple[str, float]:
    weight: Any = 1
    text = alternative
    if isinstance(alternative, dict):
        if set(alternative) != {"text", "weight"}:
            raise MalformedGrammarError(
                f"rule {rule!r}: {alternative!r} needs the keys 'text' and 'weight' alone"
            )
        text, weight = alternative["text"], alternative["weight"]
    if not isinstance(text, str):
        raise MalformedGrammarError(f"rule {rule!r}: {text!r} is not text; put it in quotes")
    if not _TEXT.fullmatch(text) or not text.strip():
        raise MalformedGrammarError(
            f"rule {rule!r}: {text!r} may hold a-z, apostrophes, spaces and {{rule}} only"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise MalformedGrammarError(f"rule {rule!r}: the weight of {text!r} must be a positive number")
    return text, float(weight)


def _check_references(start: str, rules: Mapping[str, _Rule]) -> None:
    """Every rule is reachable from ``start``, every reference exists, and none leads back to itself."""
    for name, rule in rules.items():
        if unknown := set(rule.references()) - set(rules):
            raise MalformedGrammarError(f"rule {name!r} refers to {min(unknown)!r}, which 'rules' lacks")
    try:
        TopologicalSorter({name: set(rule.references()) for name, rule in rules.items()}).prepare()
    except CycleError as error:
        raise MalformedGrammarError(f"rules lead back to themselves: {' -> '.join(error.args[1])}") from error
    reached, frontier = {start}, [start]
    while frontier:
        fresh = set(rules[frontier.pop()].references()) - reached
        reached |= fresh
        frontier.extend(fresh)
    if unused := set(rules) - reached:
        raise MalformedGrammarError(f"rule {min(unused)!r} is never used; remove it or refer to it")
