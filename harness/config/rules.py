"""Combinations that make no sense, refused before anything is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.config.needs import Machine, missing
from harness.config.schema import RunConfig
from harness.errors import UnavailableError, UsageError
from harness.files import expanded, open_regular
from harness.measure.spelling import normalizer
from harness.target.address import base_url, key

_AXES = ("model", "encoder", "decoder", "batching", "topology", "ipc", "io", "gc")
_REMEDY = {
    "encoder": "leave encoder=eager, which stands for the model as it is, or choose another model",
    "decoder": "leave decoder=cpu_synced, which stands for the model as it is, or choose another model",
}
"""What to do where a part of a model does not serve its family."""


@dataclass(frozen=True)
class Rule:
    """Two keys that exclude each other in some settings, and what to do about it."""

    keys: tuple[str, str]
    broken: Callable[[RunConfig], bool]
    remedy: str


def _in_process(config: RunConfig) -> bool:
    return config.topology.name == "inprocess"


def _on_ray(config: RunConfig) -> bool:
    return config.topology.name == "ray"


def _on_device(config: RunConfig) -> bool:
    return bool(config.frontend["name"] == "device")


RULES = (
    Rule(
        ("topology", "ipc"),
        lambda c: _in_process(c) and c.ipc.name != "none",
        "one process has nobody to exchange messages with: set ipc=none, or topology=collapsed",
    ),
    Rule(
        ("topology", "ipc"),
        lambda c: not _in_process(c) and not _on_ray(c) and c.ipc.name == "none",
        "several processes need a transport: set ipc=shared_memory, ipc=uds_copy or ipc=zeromq",
    ),
    Rule(
        ("topology", "ipc"),
        lambda c: _on_ray(c) and c.ipc.name != "none",
        "Ray brings recordings to its actors: set ipc=none",
    ),
    Rule(
        ("topology", "io"),
        lambda c: _on_ray(c) and c.io.name != "none",
        "recordings go to Ray's actors without a socket before them: set io=none",
    ),
    Rule(
        ("topology", "workload"),
        lambda c: _on_ray(c) and c.workload.mode != "offline",
        "recordings come back in shards, which says nothing of one's latency: set workload=offline",
    ),
    Rule(
        ("topology", "topology.devices"),
        lambda c: bool(c.topology.devices) and c.topology.name != "collapsed",
        "several inference processes stand behind one pool of front ends: set topology=collapsed",
    ),
    Rule(
        ("topology.devices", "model.device"),
        lambda c: len(set(c.topology.devices)) < len(c.topology.devices),
        "each device infers in one process: name it once",
    ),
    Rule(
        ("workload", "io"),
        lambda c: c.workload.mode == "streaming" and c.io.name == "none" and not c.target.is_foreign,
        "live streams arrive over sockets: set io=epoll, io=asyncio_loop, io=threads or io=http",
    ),
    Rule(
        ("workload.mode", "workload.search"),
        lambda c: c.workload.mode not in ("open", "streaming") and c.workload.search != "none",
        "there is no load to search: set workload=open, or workload=streaming",
    ),
    Rule(
        ("model", "model.layers"),
        lambda c: c.model.family == "external" and c.model.layers is not None,
        "an external engine has no layers to cut: leave model.layers=null",
    ),
    Rule(
        ("frontend", "model"),
        lambda c: _on_device(c) and c.model.family != "tdt",
        "its samples stay on the device for features that are computed there, which this family's are not: "
        "set frontend=default, or choose another model",
    ),
    Rule(
        ("frontend", "model.features"),
        lambda c: _on_device(c) and c.model.features != "device",
        "the samples are on the device, and features are computed there: set model.features=device",
    ),
    Rule(
        ("model.device", "model.precision"),
        lambda c: c.model.device == "cpu" and c.model.precision == "fp16",
        "half precision on a CPU is emulated and slow: set model.precision=fp32 or bf16",
    ),
    Rule(
        ("target", "workload"),
        lambda c: c.target.name == "openai" and c.workload.mode == "streaming",
        "this endpoint takes whole recordings: set workload=closed or workload=open",
    ),
    Rule(
        ("target", "workload"),
        lambda c: c.target.name == "realtime" and c.workload.mode != "streaming",
        "this protocol is spoken live: set workload=streaming",
    ),
    Rule(
        ("target", "target.retries"),
        lambda c: c.target.name != "openai" and c.target.retries > 0,
        "only a whole recording can be sent again: set target=openai or target.retries=0",
    ),
    Rule(
        ("target", "io"),
        lambda c: c.target.is_foreign and c.io.name != "none",
        "a foreign server has its own door: leave io=none",
    ),
    Rule(
        ("target", "profiler"),
        lambda c: c.target.is_foreign and c.profiler.name != "none",
        "a profiler sees this side alone: leave profiler=none",
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


def check(config: RunConfig, machine: Machine | None = None) -> None:
    """Raise ``UsageError`` for what can never run, ``UnavailableError`` for what cannot run here."""
    _check_values(config)
    for rule in RULES:
        if rule.broken(config):
            first, second = rule.keys
            raise UsageError(
                f"{first}={_value(config, first)} with {second}={_value(config, second)}: {rule.remedy}"
            )
    if config.runner.spelling != "as_is":
        normalizer(config.runner.spelling)
    if config.target.is_foreign:
        base_url(config.target)
        key(config.target)
        return
    _check_families(config)
    _check_needs(config, machine or Machine())


def _check_values(config: RunConfig) -> None:
    edges = list(config.model.buckets_s)
    if not edges or edges != sorted(set(edges)):
        raise UsageError(f"model.buckets_s={edges} must be ascending positive seconds")
    if config.dataset.manifest is not None:
        _check_manifest(config.dataset.manifest)


def _check_manifest(manifest: str) -> None:
    try:
        open_regular(expanded(manifest)).close()
    except IsADirectoryError:
        raise UsageError(f"dataset.manifest={manifest}: it is a folder; give the JSONL file in it") from None
    except OSError as error:
        raise UsageError(f"dataset.manifest={manifest}: cannot be read ({error.strerror})") from error


def _check_families(config: RunConfig) -> None:
    family = config.model.family
    for axis, remedy in _REMEDY.items():
        choice = getattr(config, axis)
        if choice.families and family not in choice.families:
            raise UsageError(
                f"{axis}={choice.name} serves family {' and '.join(choice.families)}; "
                f"model={config.model.name} is {family}: {remedy}"
            )


def _check_needs(config: RunConfig, machine: Machine) -> None:
    lacks = [
        f"{axis}={getattr(config, axis).name}: {lack.message}"
        for axis in _AXES
        for lack in missing(getattr(config, axis).needs, machine)
    ]
    if config.model.device == "cuda":
        lacks += [f"model.device=cuda: {lack.message}" for lack in missing(["gpu"], machine)]
    last, visible = max(config.topology.devices, default=0), machine.visible_gpus
    if config.model.device != "cpu" and 0 < visible <= last:
        lacks.append(f"topology.devices={config.topology.devices}: {visible} are visible, counted from 0")
    if lacks:
        raise UnavailableError(f"variant={config.variant} cannot run here. " + "; ".join(lacks))


def _value(config: RunConfig, key: str) -> object:
    node: object = config
    for part in key.split("."):
        node = getattr(node, part)
    return node["name"] if isinstance(node, Mapping) else getattr(node, "name", node)
