"""Run folders for tests, written through the public writer from seeded samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.record import (
    MEASURED,
    WARMUP,
    Dataset,
    Git,
    Memory,
    Mode,
    Model,
    ProcessRecord,
    Provenance,
    Run,
    RunWriter,
    Sample,
    Status,
    StoredRun,
    Tolerance,
    Verdict,
    VerdictStatus,
)
from harness.same_ground import comparability_of

SENTENCES = (
    "please turn the lights off in the kitchen",
    "my order number is four seven one nine",
    "call me back on tuesday at half past three",
    "the total comes to twenty nine dollars",
    "yes that is correct",
    "no i would like to cancel",
)
BUCKETS = (("00-02s", 1.2), ("02-05s", 3.5), ("05-10s", 7.0))
MIX = {"00-02s": 0.25, "02-05s": 0.5, "05-10s": 0.25}


@dataclass(frozen=True)
class Recipe:
    """What to generate. ``noise`` is the sigma of each request's log-normal latency factor."""

    run_id: str = "run"
    variant: str = "eager"
    seed: int = 0
    processes: int = 5
    requests: int = 120
    noise: float = 0.05
    process_noise: float = 0.005
    encoder_factor: float = 1.0
    unaccounted_share: float = 0.005
    mode: Mode = Mode.CLOSED
    say: Callable[[str], str] = str
    tolerance: Tolerance = field(default_factory=Tolerance)
    transcripts: bool = True
    changes: dict[str, Any] = field(default_factory=dict)


def config(recipe: Recipe) -> dict[str, Any]:
    return {
        "variant": recipe.variant,
        "model": {"name": "parakeet_tiny", "weights": "embedded", "precision": "fp32"},
        "encoder": {"name": "eager", "needs": [], "options": {}},
        "decoder": {"name": "cpu_synced", "options": {}},
        "frontend": {"vad": {"name": "webrtc", "threshold": 0.5}},
        "workload": {"mode": recipe.mode.value, "requests": recipe.requests, "seed": 0},
        "runner": {"processes": recipe.processes, "results_dir": "results", "threads": 1},
    }


def provenance() -> Provenance:
    return Provenance(
        git=Git("0123abc", False, "sources"),
        python="3.11.9",
        os="Linux",
        cpu="A CPU",
        cpu_count=2,
        packages={"torch": "2.11.0"},
        dataset=Dataset("smoke", "d" * 64, 40, 160.0, MIX),
        model=Model("parakeet_tiny", "embedded", "w" * 64, 4_000_000),
    )


def unmeasured(recipe: Recipe) -> Run:
    values = config(recipe)
    run = Run(
        run_id=recipe.run_id,
        created_utc="2026-05-21T12:00:00+00:00",
        mode=recipe.mode,
        variant=recipe.variant,
        config=values,
        provenance=provenance(),
        comparability=comparability_of(values, provenance()),
        content_hash=f"content of {recipe.run_id}",
        tolerance=recipe.tolerance,
        evidence={"engine": {"encoder": {"calls": recipe.requests}}},
    )
    return replace(run, **recipe.changes)


def samples(recipe: Recipe, process: int) -> list[Sample]:
    """Requests of one process: which recordings depends on the process alone, noise on the seed."""
    which = np.random.default_rng(process)
    noise = np.random.default_rng((recipe.seed, process))
    of_process = float(np.exp(noise.normal(0, recipe.process_noise)))
    clock, rows = 0.0, []
    for index in range(recipe.requests + 3):
        item = int(which.choice(40))
        bucket, audio_s = BUCKETS[which.choice(3, p=[0.25, 0.5, 0.25])]
        factor = of_process * float(np.exp(noise.normal(0, recipe.noise)))
        spans = {
            "decode": 0.001 * audio_s * factor,
            "features": 0.002 * audio_s * factor,
            "encoder": 0.010 * audio_s**0.8 * factor * recipe.encoder_factor,
            "decoder": 0.006 * audio_s * factor,
        }
        explained = sum(spans.values())
        unaccounted = explained * recipe.unaccounted_share
        text = SENTENCES[item % len(SENTENCES)]
        said = recipe.say(text)
        start = clock
        clock += explained + unaccounted
        rows.append(
            Sample(
                process=process,
                phase=WARMUP if index < 3 else MEASURED,
                index=index if index < 3 else index - 3,
                request_id=f"{bucket}-{item:03d}",
                bucket=bucket,
                container=("wav", "mp3", "opus")[item % 3],
                sample_rate=16000,
                channels=1,
                audio_s=audio_s,
                speech_s=audio_s * 0.8,
                segments=1,
                scheduled_s=start,
                dispatched_s=start,
                started_s=start,
                finished_s=clock,
                unaccounted_s=unaccounted,
                spans=spans,
                text=said,
                reference_text=text if recipe.transcripts else None,
                token_ids=tuple(ord(c) for c in said),
            )
        )
    return rows


def process_record(index: int, block: int | None = None) -> ProcessRecord:
    return ProcessRecord(
        index=index,
        pid=1000 + index,
        started_utc="2026-05-21T12:00:00+00:00",
        epoch_ns=0,
        block=block,
        memory=Memory(rss_bytes=(900 + index) * 2**20),
    )


def make_run(results: Path, recipe: Recipe) -> StoredRun:
    """A complete, valid run folder."""
    run = unmeasured(recipe)
    writer = RunWriter.open(results, run)
    for process in range(recipe.processes):
        record = process_record(process)
        with writer.journal(record) as journal:
            for sample in samples(recipe, process):
                journal.append(sample)
            journal.finish(record)
    merged = writer.merge()
    valid = Verdict(VerdictStatus.VALID) if "verdict" not in recipe.changes else run.verdict
    peak = Memory(rss_bytes=max(p.memory.rss_bytes or 0 for p in merged.processes if p.memory))
    return writer.finish(
        replace(run, status=Status.COMPLETE, verdict=valid, memory=peak, processes=merged.processes)
    )
