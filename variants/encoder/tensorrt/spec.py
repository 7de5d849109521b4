"""What an engine is built from, and the key under which it is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from variants.encoder.tensorrt.versions import Capability, Runtime

INPUTS = ("features", "lengths")
OUTPUTS = ("states", "state_lengths")
SCHEME = 4
"""Part of every key: raise it whenever a specification, or what lies beside its engine, changes."""


@dataclass(frozen=True)
class ShapeRange:
    """One optimization profile: batch and feature frames as ``(min, opt, max)``."""

    batch: tuple[int, int, int]
    frames: tuple[int, int, int]

    def features(self, bins: int) -> tuple[tuple[int, int, int], ...]:
        """Shapes of the input ``features``, ``[B, F, T]``."""
        return tuple((batch, bins, frames) for batch, frames in zip(self.batch, self.frames, strict=True))

    def lengths(self) -> tuple[tuple[int], ...]:
        """Shapes of the input ``lengths``, ``[B]``."""
        return tuple((batch,) for batch in self.batch)


@dataclass(frozen=True)
class EngineSpec:
    """A build. ``onnx`` may move; what it holds is in the key."""

    onnx: str
    onnx_sha256: str
    bins: int
    precision: str
    profiles: tuple[ShapeRange, ...]
    optimization_level: int = 3
    workspace_bytes: int = 4 << 30
    tactic_sources: tuple[str, ...] | None = None
    runtime: Runtime = "tensorrt"
    target: Capability | None = None
    """Of the GPU that will run it; None: the one that is here. TensorRT builds for no other."""

    def key(self, tensorrt_version: str, gpu: str) -> str:
        """Content key: equal for equal engines, whatever the file is called."""
        content = {
            "scheme": SCHEME,
            **asdict(replace(self, onnx="", target=None)),
            "tensorrt": tensorrt_version,
            "gpu": gpu,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> EngineSpec:
        values: dict[str, Any] = json.loads(text)
        profiles = tuple(
            ShapeRange(_triple(profile["batch"]), _triple(profile["frames"]))
            for profile in values["profiles"]
        )
        lists = {name: _tuple(values[name]) for name in ("tactic_sources", "target")}
        return cls(**{**values, **lists, "profiles": profiles})


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _triple(values: list[int]) -> tuple[int, int, int]:
    low, best, high = values
    return low, best, high


def hash_onnx(path: Path) -> str:
    """SHA-256 of a graph and of the weight files that lie beside it in its folder."""
    digest = hashlib.sha256()
    for part in sorted(p for p in path.parent.iterdir() if p.is_file() and not p.name.startswith(".")):
        digest.update(part.name.encode() + b"\0")
        with part.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
