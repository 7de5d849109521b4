"""The schema of a run. Every key a user can set is a field here or an option of the chosen leaf.

``harness.protocols.options`` checks values against it; ``harness.config.rules`` checks combinations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from harness.protocols.options import Count, Positive, PositiveSeconds, Seconds, Share

Price = Annotated[float, Meta(ge=0)]

MISSING = "???"
"""Hydra's mark of a value that a leaf has to give."""


@dataclass(frozen=True)
class Tolerance:
    """How far a choice's output may differ from the eager reference before its speed is withheld."""

    kind: Literal["exact", "wer"] = "exact"
    """``exact``: the same tokens; ``wer``: word error rates this close."""
    max_wer_difference: Share = 0.0


@dataclass(frozen=True)
class ChoiceConfig:
    """One choice of a variant axis. ``needs`` is checked before anything is built."""

    name: str = MISSING
    needs: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    """Families of models that an encoder or decoder serves; empty: every one."""
    tolerance: Tolerance = field(default_factory=Tolerance)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TopologyConfig(ChoiceConfig):
    devices: list[Count] = field(default_factory=list)
    """CUDA devices, of those visible, that infer, each in a process of its own; none given: the first."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it may serve on other machines, whose cores and devices are out of this one's sight."""
        return bool(self.options.get("address"))

    @property
    def devices_used(self) -> tuple[int, ...]:
        """Of this machine."""
        if self.is_elsewhere:
            return ()
        return tuple(self.devices) or tuple(range(self.options.get("inference_workers", 1)))


@dataclass(frozen=True)
class ModelConfig:
    name: str = MISSING
    family: Literal["tdt", "attention", "external"] = "tdt"
    """What its encoder and decoder have to serve; ``external`` is an engine with its own."""
    needs: list[str] = field(default_factory=list)
    weights: str = "synthetic"
    """``synthetic``, ``embedded`` (trained, in this repository), or the path of a checkpoint; Whisper also
    takes folders of Hugging Face and CTranslate2, and openai-whisper's names."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: the GPU where there is one."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    seed: Count = 0
    """Of synthetic weights."""
    tokens_per_speech_s: Annotated[float, Meta(gt=0)] = 4.0
    """The label rate that synthetic weights are calibrated to."""
    layers: Positive | None = None
    """Cut the encoder to its first so many layers, to try a path in a minute; null: the whole model."""
    max_batch: Positive = 8
    """Segments that are encoded at once, of one request or of those that a batching choice puts together."""
    features: Literal["host", "device"] = "host"
    """Where log-mel features are computed; ``device`` is given samples."""
    buckets_s: list[PositiveSeconds] = field(default_factory=lambda: [1.0, 2.0, 5.0, 10.0, 20.0, 30.0])
    """Upper edges of segment length for which shapes are captured and warmed up."""
    tolerance: Tolerance = field(default_factory=Tolerance)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name that reports print: a model that was cut says so."""
        return self.name if self.layers is None else f"{self.name}, first {self.layers} layers"


@dataclass(frozen=True)
class DatasetConfig:
    name: str | None = None
    """An audio set of ``datasets/``; null with ``manifest``."""
    manifest: str | None = None
    """JSONL manifest of the user's own recordings (NeMo's fields)."""
    items: Positive | None = None
    """Use a set of this many recordings instead of the specification's number."""
    seed: Count | None = None


@dataclass(frozen=True)
class WorkloadConfig:
    name: str = MISSING
    mode: Literal["closed", "open", "offline", "streaming"] = "closed"
    """``closed``: the next when the last is answered; ``open``: on a schedule; ``offline``: all are there at
    the start; ``streaming``: live."""
    requests: Positive = 60
    """Measured requests per process; connections, of live streams. Offline, every recording is one."""
    seed: Count = 0
    clients: Positive = 1
    """Requests in service at once (closed and open loop)."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """Open loop only."""
    rate_per_s: Seconds = 2.0
    """Arrivals of an open loop."""
    lag_budget_s: Seconds = 0.005
    """The p99 lag of the load generator above which the run is INVALID (open loop, streaming)."""
    search: Literal["none", "slo"] = "none"
    """``slo``: look first for the largest load under a latency limit: the number of live streams
    (streaming), or the rate of arrivals of recordings (open)."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TargetConfig:
    """What is measured: the service that the variant's parts make, or any server at an address."""

    name: Literal["in_house", "openai", "realtime"] = "in_house"
    url: str = ""
    """Base URL of a foreign server, such as http://127.0.0.1:8000/v1; written to results."""
    hide_host: bool = False
    """Write a hash of the server's host and port to results in place of their names."""
    model: str = "whisper-1"
    """The name that the server knows its model by."""
    key_variable: str = ""
    """The environment variable that holds the API key. The key itself is never written anywhere."""
    codec: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    """How live sound is sent (realtime): 16 bits at 24 kHz, or a telephone's code at 8 kHz."""
    response_format: Literal["json", "text", "verbose_json"] = "json"
    stream: bool = False
    """Ask for the transcript as server-sent events."""
    language: str = ""
    """ISO 639-1; empty: not stated."""
    timeout_s: PositiveSeconds = 120.0
    """For a whole request, connecting included. One that takes longer has failed."""
    max_answer_bytes: Positive = 16 << 20
    """An answer that is longer has failed."""
    retries: Count = 0
    """How often a request is sent again (openai) after a connection that broke, a time-out, or HTTP 408, 425,
    429 or 5xx: when Retry-After says or, without it, after 0.1 s and twice as long each time. Its latency
    holds every attempt, its row their number, and the run says that there were any. 0: what fails has
    failed."""
    max_wer: Share | None = None
    """The word error rate against the set's transcripts that the server is held to. A foreign server has no
    eager reference: without a limit its run is UNVERIFIED."""

    @property
    def is_foreign(self) -> bool:
        """Whether nothing of ours is built, and so no part of the variant means anything."""
        return self.name != "in_house"


@dataclass(frozen=True)
class WarmupConfig:
    min_passes: Positive = 2
    max_passes: Positive = 12
    """Passes over one request of every length bucket."""
    steady_within: Share = 0.10
    """Steady when the older and the newer half of every bucket's latest passes agree within this share."""
    every_recording: bool = False
    """First serve each recording once: on a GPU, eager pays for every new length."""


@dataclass(frozen=True)
class RunnerConfig:
    processes: Positive = 3
    """Measured processes; the bootstrap resamples them first."""
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    threads: Count = 1
    """Threads of the numerical libraries (OpenMP, BLAS) in every process; 0 leaves it to them. Their
    threads spin while they wait for each other: on shared cores two can take ten times as long as one."""
    turn_requests: Count = 5
    """Requests that a process serves before the next variant's turn (harness.interleave, closed loop);
    0: whole processes take turns."""
    results_dir: str = "results"
    cache_dir: str = ".cache"
    """Rendered audio sets, compiled engines."""
    resume: bool = False
    """Skip a run of the same content that is complete already, and go on with an offline run that was
    stopped. Sweeps (-m) always do."""
    spelling: Literal["as_is", "whisper_english", "whisper_basic"] = "as_is"
    """Of texts whose words are compared: as they are but for case and punctuation, or by Whisper's
    normalizers (numbers as digits, contractions written out), which its published word error rates are of."""
    reference: bool = True
    """Check the output against the eager reference in a process of its own. A run without one is
    UNVERIFIED: its speed is neither compared nor published."""
    max_failed_share: Share = 0.05
    """Of the requests, whose recordings the eager reference refuses as well. Above it the run is INVALID;
    so is a run that fails a single request which the reference answers."""
    silence_timeout_s: PositiveSeconds = 900.0
    """Seconds in which a process may come no further, neither in its requests nor in what it builds."""
    label: str = ""
    """Names the run in its folder and in reports, beside others of its variant."""


@dataclass(frozen=True)
class ProfilerConfig:
    name: Literal["none", "torch", "nsys"] = "none"
    """``torch`` writes a Chrome/Perfetto trace. A profiled run is never compared."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CostConfig:
    """What an hour costs; null: unknown, and no price is told."""

    gpu_usd_per_hour: Price | None = None
    """Of one GPU."""
    cpu_usd_per_hour: Price | None = None
    """Of the machine without its GPUs."""


@dataclass(frozen=True)
class RunConfig:
    variant: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: ChoiceConfig = field(default_factory=ChoiceConfig)
    decoder: ChoiceConfig = field(default_factory=ChoiceConfig)
    batching: ChoiceConfig = field(default_factory=ChoiceConfig)
    frontend: dict[str, Any] = field(default_factory=dict)
    """``name``, and beside it the options of that front end."""
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    ipc: ChoiceConfig = field(default_factory=ChoiceConfig)
    io: ChoiceConfig = field(default_factory=ChoiceConfig)
    gc: ChoiceConfig = field(default_factory=ChoiceConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    profiler: ProfilerConfig = field(default_factory=ProfilerConfig)
    cost: CostConfig = field(default_factory=CostConfig)
