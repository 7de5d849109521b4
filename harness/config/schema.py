"""The structured schema of a run. Every key a user can set is a field here or an option of a leaf.

Hydra checks types and spelling against it; ``harness.config.rules`` checks combinations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from harness.paths import datasets_dir
from variants.frontend.config import FrontendConfig


@dataclass(frozen=True)
class Tolerance:
    """How far a choice's output may differ from the eager reference before its speed is withheld."""

    kind: str = "exact"
    """``exact`` (the same tokens) or ``wer``."""
    max_wer_difference: float = 0.0


@dataclass(frozen=True)
class ChoiceConfig:
    """One option of a variant axis. ``needs`` is checked before anything is imported."""

    name: str = MISSING
    needs: list[str] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=Tolerance)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    name: str = MISSING
    needs: list[str] = field(default_factory=list)
    weights: str = "synthetic"
    """``synthetic``, ``embedded``, or the path of a checkpoint."""
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    tokens_per_speech_s: float = 4.0
    max_batch: int = 8
    """Segments of one request that are encoded at once."""
    buckets_s: list[float] = field(default_factory=lambda: [1.0, 2.0, 5.0, 10.0, 20.0, 30.0])
    """Upper edges of segment length for which shapes are captured and warmed up."""
    tolerance: Tolerance = field(default_factory=Tolerance)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetConfig:
    name: str | None = None
    """An audio set of ``datasets/``; null with ``manifest``."""
    manifest: str | None = None
    """JSONL manifest of the user's own recordings (NeMo's fields)."""
    items: int | None = None
    """Use a set of this many recordings instead of the specification's number."""
    seed: int | None = None


@dataclass(frozen=True)
class WorkloadConfig:
    name: str = MISSING
    mode: str = MISSING
    """``closed`` (one at a time), ``open`` (absolute schedule) or ``streaming``."""
    requests: int = 60
    """Measured requests per process."""
    seed: int = 0
    clients: int = 1
    """Requests in service at once."""
    arrivals: str = "poisson"
    """``poisson`` or ``constant`` (open loop)."""
    rate_per_s: float = 2.0
    lag_budget_s: float = 0.005
    """The p99 lag of the load generator above which the run is INVALID (open loop)."""
    search: str = "none"
    """``slo``: look for the largest number of live streams under a latency limit first (streaming)."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WarmupConfig:
    min_passes: int = 2
    max_passes: int = 12
    """Passes over one request of every length bucket."""
    steady_within: float = 0.10
    """Steady when every bucket's last two passes agree within this share."""
    every_recording: bool = False
    """Serve every recording once before the passes: for parts that pay for each new length."""


@dataclass(frozen=True)
class RunnerConfig:
    processes: int = 3
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    threads: int = 1
    """Threads of the numerical libraries (OpenMP, BLAS) in every process; 0 leaves it to them. Their
    threads spin while they wait for each other: on shared cores two can take ten times as long as one."""
    turn_requests: int = 5
    """Requests that a process serves before the next variant's turn (harness.interleave, closed loop);
    0: whole processes take turns."""
    results_dir: str = "results"
    cache_dir: str = ".cache"
    resume: bool = False
    """Skip a run of the same content that is complete already. Sweeps (-m) always do."""
    reference: bool = True
    """Check the output against the eager reference in a process of its own. A run without one is
    UNVERIFIED: its speed is neither compared nor published."""
    max_failed_share: float = 0.05
    """Of the requests, whose recordings the eager reference refuses as well. Above it the run is INVALID;
    so is a run that fails a single request which the reference answers."""
    start_timeout_s: float = 900.0
    label: str = ""
    """Appended to the run folder's name."""


@dataclass(frozen=True)
class ProfilerConfig:
    name: str = "none"
    """``none``, ``torch`` (Chrome/Perfetto trace) or ``nsys``. A profiled run is never compared."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    variant: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: ChoiceConfig = field(default_factory=ChoiceConfig)
    decoder: ChoiceConfig = field(default_factory=ChoiceConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    topology: ChoiceConfig = field(default_factory=ChoiceConfig)
    ipc: ChoiceConfig = field(default_factory=ChoiceConfig)
    io: ChoiceConfig = field(default_factory=ChoiceConfig)
    gc: ChoiceConfig = field(default_factory=ChoiceConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    profiler: ProfilerConfig = field(default_factory=ProfilerConfig)


def register() -> None:
    """Offer the schema, and every audio set's specification as a ``dataset`` choice, to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=writable_schema())
    for path in sorted(datasets_dir().glob("*.yaml")):
        store.store(group="dataset", name=path.stem, node={"name": path.stem})


def writable_schema() -> DictConfig:
    """A node of type ``RunConfig`` that can be merged into, with every default filled in."""
    return _writable(OmegaConf.structured(RunConfig))


def _writable(node: DictConfig) -> DictConfig:
    """Frozen dataclasses become read-only nodes; overrides have to reach them all the same."""
    OmegaConf.set_readonly(node, None)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(child := node._get_node(key), DictConfig):
            _writable(child)
    return node
