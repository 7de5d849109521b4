"""Combinations that make no sense, refused before anything is launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.config.needs import Machine, missing
from harness.config.schema import RunConfig
from harness.errors import UnavailableError, UsageError

_AXES = ("model", "encoder", "decoder", "topology", "ipc", "io", "gc")


@dataclass(frozen=True)
class Rule:
    """Two keys that exclude each other in some settings, and what to do about it."""

    keys: tuple[str, str]
    broken: Callable[[RunConfig], bool]
    remedy: str


def _in_process(config: RunConfig) -> bool:
    return config.topology.name == "inprocess"


RULES = (
    Rule(
        ("topology", "ipc"),
        lambda c: _in_process(c) and c.ipc.name != "none",
        "one process has nobody to exchange messages with: set ipc=none, or topology=collapsed",
    ),
    Rule(
        ("topology", "ipc"),
        lambda c: not _in_process(c) and c.ipc.name == "none",
        "several processes need a transport: set ipc=shared_memory, ipc=uds_copy or ipc=zeromq",
    ),
    Rule(
        ("workload", "io"),
        lambda c: c.workload.mode == "streaming" and c.io.name == "none",
        "live streams arrive over sockets: set io=epoll, io=asyncio_loop or io=threads",
    ),
    Rule(
        ("workload.mode", "workload.search"),
        lambda c: c.workload.mode != "streaming" and c.workload.search != "none",
        "only live streams are searched: set workload=streaming",
    ),
    Rule(
        ("model", "encoder"),
        lambda c: c.model.name == "fixed_cost" and c.encoder.name != "eager",
        "the fixed-cost engine runs no encoder: leave encoder=eager",
    ),
    Rule(
        ("model", "decoder"),
        lambda c: c.model.name == "fixed_cost" and c.decoder.name != "cpu_synced",
        "the fixed-cost engine runs no decoder: leave decoder=cpu_synced",
    ),
    Rule(
        ("model.device", "model.precision"),
        lambda c: c.model.device == "cpu" and c.model.precision == "fp16",
        "half precision on a CPU is emulated and slow: set model.precision=fp32 or bf16",
    ),
    Rule(
        ("dataset.name", "dataset.manifest"),
        lambda c: c.dataset.name is None and c.dataset.manifest is None,
        "there is nothing to transcribe: set dataset=smoke, or dataset.manifest=PATH",
    ),
    Rule(
        ("workload.mode", "workload.rate_per_s"),
        lambda c: c.workload.mode == "open" and c.workload.rate_per_s <= 0,
        "an open loop needs an arrival rate above 0",
    ),
)

_CHOICES: tuple[tuple[str, Callable[[RunConfig], str], tuple[str, ...]], ...] = (
    ("model.device", lambda c: c.model.device, ("auto", "cpu", "cuda")),
    ("model.precision", lambda c: c.model.precision, ("fp32", "fp16", "bf16")),
    ("workload.mode", lambda c: c.workload.mode, ("closed", "open", "streaming")),
    ("workload.search", lambda c: c.workload.search, ("none", "slo")),
    ("workload.arrivals", lambda c: c.workload.arrivals, ("poisson", "constant")),
    ("profiler", lambda c: c.profiler.name, ("none", "torch", "nsys")),
)

_AT_LEAST: tuple[tuple[str, Callable[[RunConfig], float], float], ...] = (
    ("workload.requests", lambda c: c.workload.requests, 1),
    ("workload.clients", lambda c: c.workload.clients, 1),
    ("runner.processes", lambda c: c.runner.processes, 1),
    ("runner.turn_requests", lambda c: c.runner.turn_requests, 0),
    ("runner.warmup.min_passes", lambda c: c.runner.warmup.min_passes, 1),
    ("runner.warmup.max_passes", lambda c: c.runner.warmup.max_passes, 1),
    ("model.max_batch", lambda c: c.model.max_batch, 1),
    ("model.tokens_per_speech_s", lambda c: c.model.tokens_per_speech_s, 0.0),
    ("runner.max_failed_share", lambda c: c.runner.max_failed_share, 0.0),
)


def check(config: RunConfig, machine: Machine | None = None) -> None:
    """Raise ``UsageError`` for what can never run, ``UnavailableError`` for what cannot run here."""
    _check_values(config)
    for rule in RULES:
        if rule.broken(config):
            first, second = rule.keys
            raise UsageError(
                f"{first}={_value(config, first)} with {second}={_value(config, second)}: {rule.remedy}"
            )
    _check_needs(config, machine or Machine())


def _check_values(config: RunConfig) -> None:
    for key, read, allowed in _CHOICES:
        if read(config) not in allowed:
            raise UsageError(f"{key}={read(config)} is not one of {', '.join(allowed)}")
    for key, number, least in _AT_LEAST:
        if number(config) < least:
            raise UsageError(f"{key}={number(config)} must be at least {least:g}")
    edges = list(config.model.buckets_s)
    if not edges or edges != sorted(set(edges)) or edges[0] <= 0:
        raise UsageError(f"model.buckets_s={edges} must be ascending positive seconds")
    manifest = config.dataset.manifest
    if manifest is not None and not Path(manifest).expanduser().is_file():
        found = "it is a folder; give the JSONL file in it" if Path(manifest).is_dir() else "no such file"
        raise UsageError(f"dataset.manifest={manifest}: {found}")


def _check_needs(config: RunConfig, machine: Machine) -> None:
    lacks = [
        f"{axis}={getattr(config, axis).name}: {lack.message}"
        for axis in _AXES
        for lack in missing(getattr(config, axis).needs, machine)
    ]
    if config.model.device == "cuda":
        lacks += [f"model.device=cuda: {lack.message}" for lack in missing(["gpu"], machine)]
    if lacks:
        raise UnavailableError(f"variant={config.variant} cannot run here. " + "; ".join(lacks))


def _value(config: RunConfig, key: str) -> object:
    node: object = config
    for part in key.split("."):
        node = getattr(node, part)
    return getattr(node, "name", node)
