"""The result schema: what ``run.json`` holds, as values.

Times are seconds, sizes are bytes, units are in the names. A field that could not be observed is
``None`` (``null``), never zero and never a string.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from harness.errors import UsageError
from harness.record.codec import from_json, to_json

SCHEMA_VERSION = 2
"""Raised whenever a reader of the version before would misunderstand the file."""

_NAME_BYTES = 200
"""Of the 255 that a file's name may have: a time and a few digits come on top."""


def _lists_of_devices(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew one GPU, and of its memory what PyTorch's allocator held."""
    origin = dict(document["provenance"])
    gpu = origin.pop("gpu", None)
    found = {key: value for key, value in document.items() if key != "telemetry"}
    found["provenance"] = origin | {"gpus": [] if gpu is None else [gpu]}
    found["memory"] = _with_method(document.get("memory"))
    found["processes"] = [process_of_devices(process) for process in document.get("processes", ())]
    return found


def process_of_devices(process: dict[str, Any]) -> dict[str, Any]:
    """A process as this version has it. Journals have no version of their own."""
    telemetry = process.get("telemetry")
    if isinstance(telemetry, list):
        return process
    lists = {"telemetry": [] if telemetry is None else [telemetry]}
    return process | lists | {"memory": _with_method(process.get("memory"))}


def _with_method(memory: dict[str, Any] | None) -> dict[str, Any] | None:
    if memory is None or memory.get("gpu_reserved_bytes") is None:
        return memory
    return memory | {"gpu_bytes": memory["gpu_reserved_bytes"], "gpu_method": "allocator"}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _lists_of_devices}
"""From version n (the key) to n + 1, on the JSON object."""


class Status(StrEnum):
    """How far the run came."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Mode(StrEnum):
    """What drove the requests: decides what latency means (closed loop has no schedule)."""

    CLOSED = "closed"
    OPEN = "open"
    OFFLINE = "offline"
    STREAMING = "streaming"


class VerdictStatus(StrEnum):
    """Whether the numbers may be quoted. UNVERIFIED: nothing speaks against them, but whether the output
    is the eager reference's was not asked."""

    VALID = "VALID"
    UNVERIFIED = "UNVERIFIED"
    INVALID = "INVALID"
    INCOMPLETE = "INCOMPLETE"


class ParityStatus(StrEnum):
    """Whether the output is the reference's, within the declared tolerance."""

    SAME = "same"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Reason:
    """A rule of measurement that the run broke, and what the user can do about it."""

    rule: str
    message: str


@dataclass(frozen=True)
class Verdict:
    status: VerdictStatus
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Git:
    """``source_hash`` covers the files as they were run, so it also tells dirty trees apart."""

    commit: str | None
    dirty: bool | None
    source_hash: str


@dataclass(frozen=True)
class Gpu:
    """A device that the run computes on. ``count`` is the machine's; ``uuid`` tells its cards apart."""

    name: str
    driver: str
    memory_bytes: int
    count: int = 1
    compute_capability: str | None = None
    power_limit_w: float | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Dataset:
    """``mix`` is each bucket's share of the set (sums to 1); empty where it was not counted."""

    name: str
    content_hash: str
    items: int
    audio_s: float
    mix: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    name: str
    weights: str
    weights_hash: str
    parameters: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from: enough to repeat them or to say why one can't."""

    git: Git
    python: str
    os: str
    cpu: str
    cpu_count: int
    packages: Mapping[str, str]
    dataset: Dataset
    model: Model
    gpus: tuple[Gpu, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparability:
    """``fields`` are dotted names; ``key`` hashes those that no variant axis explains."""

    key: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Tolerance:
    """How far a variant's text may differ from the eager reference: ``exact`` tokens, or ``wer``."""

    kind: str = "exact"
    max_wer_difference: float | None = None


@dataclass(frozen=True)
class Parity:
    """The comparison of this run's output with the reference's, over ``compared`` utterances.

    ``differing`` counts utterances whose tokens differ. The WER difference (this minus the
    reference) and its 95 % interval are null where tokens were compared exactly.
    """

    status: ParityStatus
    reference: str
    tolerance: Tolerance
    compared: int
    differing: int
    message: str
    wer_difference: float | None = None
    wer_difference_low: float | None = None
    wer_difference_high: float | None = None


@dataclass(frozen=True)
class GpuSample:
    """One reading of NVML, ``time_s`` after the process's epoch; what the device lacks is null."""

    time_s: float
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    memory_used_bytes: int | None = None
    throttle_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Telemetry:
    """The readings of one device."""

    device: str
    interval_s: float
    samples: tuple[GpuSample, ...]
    uuid: str | None = None


@dataclass(frozen=True)
class Memory:
    """What the serving processes took.

    ``rss_bytes`` sums the peaks of the process tree; shared pages count once per process.
    ``gpu_bytes`` is what these processes held of the run's devices, found by ``gpu_method``:
    ``processes`` (the driver's list of processes), ``difference`` (of the devices' use before and
    after, nobody else there) or ``allocator`` (PyTorch's own count, of schema version 1).
    ``strangers`` are other processes on the devices, null where that cannot be known. The allocator's
    peaks are PyTorch's in the measured process; ``gpu_used_bytes`` is the peak of all that the devices
    held.
    """

    rss_bytes: int | None
    gpu_bytes: int | None = None
    gpu_method: str | None = None
    strangers: int | None = None
    gpu_allocated_bytes: int | None = None
    gpu_reserved_bytes: int | None = None
    gpu_used_bytes: int | None = None


@dataclass(frozen=True)
class GcPauses:
    """Pauses of Python's collector while requests were measured."""

    count: int
    total_s: float
    longest_s: float
    by_generation: tuple[int, ...] = ()


@dataclass(frozen=True)
class CpuTime:
    """What the scheduler gave a process tree while requests were measured, summed over threads.

    ``waited_s`` is time ready to run without a core; ``involuntary_switches`` count how often a core
    was taken away; ``stolen_share`` is what the hypervisor took of the whole machine's cores. Live
    streams, whose server ends with its measurement, have none.
    """

    used_s: float
    waited_s: float
    involuntary_switches: int
    stolen_share: float


@dataclass(frozen=True)
class ProcessRecord:
    """One measuring process. ``block`` is its place in an interleaved (ABBA) series.

    ``epoch_ns`` is the monotonic clock at second zero of its samples. ``finished`` is false when
    the process ended before its last request.
    """

    index: int
    pid: int
    started_utc: str
    epoch_ns: int
    block: int | None = None
    finished: bool = False
    memory: Memory | None = None
    gc: GcPauses | None = None
    telemetry: tuple[Telemetry, ...] = ()
    cpu: CpuTime | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One variant, measured once. ``series`` is shared by runs whose processes were interleaved."""

    run_id: str
    created_utc: str
    mode: Mode
    variant: str
    config: Mapping[str, Any]
    provenance: Provenance
    comparability: Comparability
    content_hash: str
    schema_version: int = SCHEMA_VERSION
    status: Status = Status.RUNNING
    profiled: bool = False
    series: str | None = None
    overrides: tuple[str, ...] = ()
    tolerance: Tolerance = Tolerance()
    verdict: Verdict = Verdict(VerdictStatus.INCOMPLETE)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    parity: Parity | None = None
    memory: Memory | None = None
    gc: GcPauses | None = None
    processes: tuple[ProcessRecord, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the user called it (``runner.label``), or nothing."""
        return str(self.config.get("runner", {}).get("label", ""))


def run_to_json(run: Run) -> dict[str, Any]:
    encoded: dict[str, Any] = to_json(run)
    return encoded


def run_from_json(document: Any, where: str = "run.json") -> Run:
    """A run of this or an older schema version. Raises ``UsageError`` that names ``where``."""
    if not isinstance(document, dict):
        raise UsageError(f"{where}: not a JSON object; restore the file or delete the run")
    run: Run = from_json(Run, migrate(document, where), where)
    return run


def migrate(
    document: dict[str, Any],
    where: str,
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MIGRATIONS,
    current: int = SCHEMA_VERSION,
) -> dict[str, Any]:
    """Bring a document up to the ``current`` version, one step per version."""
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        found = "is missing" if version is None else f"is {version!r}, not a number"
        raise UsageError(f"{where}: key 'schema_version' {found}; is it a result of this harness?")
    if version > current:
        raise UsageError(
            f"{where}: schema version {version} is newer than {current}, the newest this version reads; "
            "update the harness"
        )
    while version < current:
        if version not in steps:
            raise UsageError(f"{where}: schema version {version} is unknown; update the harness")
        document = {**steps[version](document), "schema_version": version + 1}
        version += 1
    return document


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON (sorted keys) of ``value``, in hexadecimal."""
    canonical = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def new_run_id(variant: str, now: datetime) -> str:
    """Sorts by time, reads well in a path, does not collide between machines."""
    return f"{now:%Y%m%d-%H%M%S}-{folder_name(variant)}-{secrets.token_hex(2)}"


def folder_name(text: str) -> str:
    """``text``, which a user may have written, as one part of a path, cut to what file systems take."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in text)
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")
