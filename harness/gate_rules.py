"""The threshold file of the gate: limits per metric and scope."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.gate_decision import BUCKETS
from harness.gate_result import Rule
from harness.measure.metrics import ALL, WEIGHTED, Metric, metric
from harness.yaml_file import read_yaml

_BUCKET = re.compile(r"[\d.]+(-[\d.]+s|s\+)|unknown")


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a threshold file. Raises ``UsageError`` that names the file and the key."""
    document = read_yaml(path, remedy="; pass a file with --thresholds")
    rules = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"{path}: needs a list 'rules'; see conf/gate.yaml")
    if unknown := [str(key) for key in document if key != "rules"]:
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; the only key is 'rules'")
    return tuple(_rule(entry, f"{path}: rules[{i}]") for i, entry in enumerate(rules))


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected a mapping with {', '.join(_READ)}")
    for key in entry:
        if key not in _READ:
            raise UsageError(f"{where}: unknown key {key!r}; keys are {', '.join(_READ)}")
    if "metric" not in entry or "limit" not in entry:
        raise UsageError(f"{where}: needs 'metric' and 'limit'")
    values: Mapping[str, Any] = {key: _READ[key](value, f"{where}.{key}") for key, value in entry.items()}
    return Rule(**{"scope": ALL, **values})


def _read_metric(value: Any, where: str) -> Metric:
    try:
        return metric(_typed(value, where, str))
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error


def _read_scope(value: Any, where: str) -> str:
    scope: str = _typed(value, where, str)
    if scope not in (ALL, WEIGHTED, BUCKETS) and not _BUCKET.fullmatch(scope):
        raise UsageError(
            f"{where}: {scope!r} is no scope; scopes are {ALL}, {WEIGHTED}, {BUCKETS}, "
            "or a bucket such as 02-05s"
        )
    return scope


def _read_limit(value: Any, where: str) -> float:
    limit = float(_typed(value, where, int, float))
    if not math.isfinite(limit):
        raise UsageError(f"{where}: {limit} is no limit; it is a finite share such as 0.05")
    if limit < 0:
        raise UsageError(f"{where}: {limit} is negative; it is the worsening that the gate is to find")
    return limit


def _read_required(value: Any, where: str) -> bool:
    return bool(_typed(value, where, bool))


def _typed(value: Any, where: str, *types: type) -> Any:
    """Python counts true as a number: a limit of true is a mistake all the same."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise UsageError(f"{where}: {value!r} has the wrong type")
    return value


_READ: Mapping[str, Callable[[Any, str], Any]] = {
    "metric": _read_metric,
    "scope": _read_scope,
    "limit": _read_limit,
    "required": _read_required,
}
