"""Front ends and engines for the tests, importable by the processes under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.frontend.chain import build_frontend
from harness.frontend.config import FrontendConfig
from harness.protocols import Engine, Frontend
from variants.models import fixed_cost


@dataclass(frozen=True)
class Options:
    options: dict[str, Any] = field(default_factory=dict)


def whole_frontend(**options: Any) -> Frontend:
    return build_frontend(FrontendConfig(**{"vad": "webrtc", **options}))


def checksum_engine(**options: Any) -> Engine:
    return fixed_cost.build(Options(options))
