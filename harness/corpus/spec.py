"""The specification of an audio set: ``datasets/NAME.yaml``, checked to the last key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from harness.corpus.encode import CONTAINERS
from harness.corpus.lengths import AroundEdges, Lengths, LogNormal, Uniform
from harness.corpus.speech import VOICES
from harness.errors import UsageError
from harness.yaml_file import read_yaml

_LENGTH_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lognormal": ("min_s", "max_s", "median_s", "sigma"),
        "uniform": ("min_s", "max_s"),
        "around_edges": ("edges_s", "frame_s"),
        "mixture": ("weights",),
    }
)
_DISTRIBUTIONS = tuple(_LENGTH_KEYS)
_SET_KEYS = ("description", "items", "seed", "bucket_edges_s", "lengths")
_RECORDING_KEYS = (
    "containers",
    "sample_rates",
    "channels",
    "snr_db",
    "rt60_s",
    "speech_ratio",
    "text",
    "voices",
    "speakers",
)
_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: No voice says the shortest word faster.
SHORTEST_S = 0.3
LONGEST_S = 4 * 3600.0

Range = tuple[float, float]
Weights = tuple[tuple[Any, float], ...]


@dataclass(frozen=True, slots=True)
class RecordingSpec:
    """What recordings of one kind sound like and how they are stored.

    ``containers``, ``sample_rates`` and ``channels`` are (choice, weight) pairs. Ranges are drawn
    from evenly, one value a recording; None leaves the effect out.
    """

    lengths: Lengths
    containers: Weights
    sample_rates: Weights
    channels: Weights
    snr_db: Range | None
    """Signal to noise over active speech, in decibels."""
    rt60_s: Range | None
    """Time in which the room's sound decays by 60 dB."""
    speech_ratio: Range
    """Spoken share of the length; the rest is pauses."""
    text: Path
    """A grammar (``harness.corpus.grammar``)."""
    voices: tuple[str, ...]
    speakers: int
    """Voices that take turns in one recording."""


@dataclass(frozen=True, slots=True)
class AudioSetSpec:
    """An audio set: how many recordings, of which kinds (a mixture has several), from which seed."""

    name: str
    description: str
    items: int
    seed: int
    bucket_edges_s: tuple[float, ...]
    kinds: tuple[tuple[RecordingSpec, float], ...]
    """(kind, weight) pairs; weights count recordings, not seconds."""


def load_spec(name: str, specs_dir: Path) -> AudioSetSpec:
    """Read ``specs_dir/NAME.yaml``.

    Raises ``UsageError`` that names the file, the key and what it may hold.
    """
    path = specs_dir / f"{name}.yaml"
    if not path.is_file():
        known = available(specs_dir)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown audio set {name!r}: {hint}sets in {specs_dir} are {', '.join(known)}")
    return _parse_set(_read(path), name, specs_dir)


def available(specs_dir: Path) -> list[str]:
    """Names of the audio sets in a folder."""
    return sorted(path.stem for path in specs_dir.glob("*.yaml"))


def _parse_set(section: _Section, name: str, specs_dir: Path) -> AudioSetSpec:
    lengths = section.mapping("lengths")
    mixture = lengths.choice("distribution", _DISTRIBUTIONS) == "mixture"
    section.allow((*_SET_KEYS, *_RECORDING_KEYS))
    return AudioSetSpec(
        name=name,
        description=section.text("description"),
        items=int(section.number("items", 1, 1_000_000, whole=True)),
        seed=int(section.number("seed", 0, 2**32 - 1, whole=True)),
        bucket_edges_s=section.ascending("bucket_edges_s", 0.1, LONGEST_S),
        kinds=_parse_mixture(section, specs_dir) if mixture else ((_parse_kind(section, specs_dir), 1.0),),
    )


def _parse_mixture(section: _Section, specs_dir: Path) -> tuple[tuple[RecordingSpec, float], ...]:
    """Recordings of other sets; what the mixture says of recordings itself stands for all of them."""
    own = {key: section.values[key] for key in _RECORDING_KEYS if key in section.values}
    lengths = section.mapping("lengths")
    lengths.allow(("distribution", *_LENGTH_KEYS["mixture"]))
    plain = [
        name for name in available(specs_dir) if _distribution(_read(specs_dir / f"{name}.yaml")) != "mixture"
    ]
    return tuple(
        (_parse_kind(_read(specs_dir / f"{name}.yaml").with_values(own), specs_dir), weight)
        for name, weight in lengths.weights("weights", plain)
    )


def _distribution(section: _Section) -> str:
    return section.mapping("lengths").choice("distribution", _DISTRIBUTIONS)


def _parse_kind(section: _Section, specs_dir: Path) -> RecordingSpec:
    return RecordingSpec(
        lengths=_parse_lengths(section.mapping("lengths")),
        containers=section.weights("containers", tuple(CONTAINERS)),
        sample_rates=section.weights("sample_rates", _SAMPLE_RATES),
        channels=section.weights("channels", (1, 2)),
        snr_db=section.optional_range("snr_db", -20, 100),
        rt60_s=section.optional_range("rt60_s", 0.01, 5),
        speech_ratio=section.range("speech_ratio", 0.05, 1.0),
        text=_text_path(section, specs_dir / "texts"),
        voices=_voices(section),
        speakers=int(section.number("speakers", 1, len(VOICES), whole=True)),
    )


def _parse_lengths(section: _Section) -> Lengths:
    distribution = section.choice("distribution", _DISTRIBUTIONS)
    section.allow(("distribution", *_LENGTH_KEYS[distribution]))
    if distribution == "around_edges":
        edges = section.ascending("edges_s", 2 * SHORTEST_S, LONGEST_S)
        return AroundEdges(edges, section.number("frame_s", 0.001, SHORTEST_S))
    min_s = section.number("min_s", SHORTEST_S, LONGEST_S)
    max_s = section.number("max_s", min_s, LONGEST_S)
    if distribution == "uniform":
        return Uniform(min_s, max_s)
    return LogNormal(
        section.number("median_s", min_s, max_s), section.number("sigma", 0.01, 5.0), min_s, max_s
    )


def _text_path(section: _Section, texts_dir: Path) -> Path:
    return texts_dir / f"{section.choice('text', available(texts_dir))}.yaml"


def _voices(section: _Section) -> tuple[str, ...]:
    """``all``, or a list of names; speakers take turns among them."""
    names = section.values.get("voices")
    if names == "all":
        return tuple(VOICES)
    if not isinstance(names, list) or not names or not all(name in tuple(VOICES) for name in names):
        section.refuse("voices", f"'all' or a list of {', '.join(VOICES)}")
    return tuple(names)


def _read(path: Path) -> _Section:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: an audio set is a mapping with the keys {', '.join(_SET_KEYS)}")
    return _Section(path, "", content)


@dataclass(frozen=True, slots=True)
class _Section:
    """A mapping of the file, whose every read checks; ``prefix`` is where it is, for messages."""

    path: Path
    prefix: str
    values: Mapping[Any, Any]

    def with_values(self, values: Mapping[Any, Any]) -> _Section:
        return replace(self, values={**self.values, **values})

    def refuse(self, key: str, allowed: str) -> NoReturn:
        got = f"is {self.values[key]!r}" if key in self.values else "is missing"
        raise UsageError(f"{self.path}: {self.prefix}{key} {got}; it must be {allowed}")

    def allow(self, keys: Iterable[str]) -> None:
        """Refuse every key but ``keys``."""
        known = list(keys)
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                message = f"unknown key {self.prefix}{key}; {hint}keys here are {', '.join(known)}"
                raise UsageError(f"{self.path}: {message}")

    def mapping(self, key: str) -> _Section:
        value = self.values.get(key)
        if not isinstance(value, dict):
            self.refuse(key, "a mapping")
        return _Section(self.path, f"{self.prefix}{key}.", value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            self.refuse(key, "a text")
        return " ".join(value.split())

    def choice(self, key: str, allowed: Iterable[str]) -> str:
        names = tuple(allowed)
        value = self.values.get(key)
        if value not in names:
            self.refuse(key, f"one of {', '.join(names)}")
        return str(value)

    def number(self, key: str, low: float, high: float, whole: bool = False) -> float:
        value = self.values.get(key)
        if not _is_number(value, low, high) or (whole and not isinstance(value, int)):
            kind = "a whole number" if whole else "a number"
            self.refuse(key, f"{kind} from {low:g} to {high:g}")
        return float(value)  # type: ignore[arg-type]

    def range(self, key: str, low: float, high: float) -> Range:
        value = self.values.get(key)
        valid = isinstance(value, list) and len(value) == 2 and all(_is_number(v, low, high) for v in value)
        if not valid or value[0] > value[1]:  # type: ignore[index]
            self.refuse(key, f"[low, high] within {low:g} to {high:g}")
        return float(value[0]), float(value[1])  # type: ignore[index]

    def optional_range(self, key: str, low: float, high: float) -> Range | None:
        if key in self.values and self.values[key] is None:
            return None
        return self.range(key, low, high)

    def ascending(self, key: str, low: float, high: float) -> tuple[float, ...]:
        value = self.values.get(key)
        valid = isinstance(value, list) and bool(value) and all(_is_number(v, low, high) for v in value)
        if not valid or value != sorted(set(value)):  # type: ignore[arg-type]
            self.refuse(key, f"an ascending list of numbers from {low:g} to {high:g}")
        return tuple(float(edge) for edge in value)  # type: ignore[union-attr]

    def weights(self, key: str, allowed: Iterable[Any]) -> Weights:
        choices = tuple(allowed)
        value = self.values.get(key)
        valid = isinstance(value, dict) and bool(value) and all(choice in choices for choice in value)
        if not valid or not all(_is_number(w, 1e-9, 1e9) for w in value.values()):  # type: ignore[union-attr]
            self.refuse(key, f"positive weights by name, of {', '.join(map(str, choices))}")
        return tuple((choice, float(weight)) for choice, weight in value.items())  # type: ignore[union-attr]


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high
