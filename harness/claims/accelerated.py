"""Claims that need a GPU: told so on a machine without one, with what a reference machine measured.

The verdict is about the machine at hand. Where the reference results hold a measurement of the
claim's pair, its figures are shown beside it, by name: ``decoders*.json`` is what
``variants.decoder.bench`` writes, ``encoders*.json`` ``variants.encoder.bench`` and ``tensorrt*.json``
``variants.encoder.tensorrt.bench``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.claims.model import Bench, Claim, Finding, Test, Verdict
from harness.config.needs import Machine, missing
from harness.measure.stats import Resampled
from harness.paths import reference_dir

_RULE = "measured on a machine with the accelerator; nothing is inferred from one without"

CLAIMS = (
    Claim(
        1,
        "About 20 h of speech transcribed in under 10 s (Parakeet-TDT 0.6B v3)",
        "encoder=eager decoder=cpu_synced",
        "the best offline variant",
        _RULE,
    ),
    Claim(
        2,
        "Multi-profile TensorRT is several times faster on short inputs than one large padded profile",
        "encoder=single_profile",
        "encoder=multi_profile",
        _RULE,
    ),
    Claim(
        3,
        "Memory falls from about 6 GB to about 5 GB with profile-aware TensorRT",
        "encoder=compiled",
        "encoder=multi_profile",
        _RULE,
    ),
    Claim(
        4,
        "The decoder loop as one conditional CUDA graph: 2-3 times lower decoder latency",
        "decoder=cpu_synced",
        "decoder=conditional_graph",
        _RULE,
    ),
    Claim(
        9,
        "A whole model as one kernel (megakernel): 281 to 77 ms on a small LLM",
        "decoder=conditional_graph",
        "decoder=megakernel",
        _RULE,
    ),
)
_NEEDS = {
    1: ("gpu",),
    2: ("gpu", "package:tensorrt"),
    3: ("gpu", "package:tensorrt"),
    4: ("gpu",),
    9: ("gpu",),
}


def tests() -> dict[int, tuple[Claim, Test]]:
    return {claim.number: (claim, partial(_test, claim)) for claim in CLAIMS}


def _test(claim: Claim, _bench: Bench) -> Finding:
    rows = [
        row for folder in sorted(reference_dir().glob("*/")) for row in _READERS[claim.number](claim, folder)
    ]
    notes = []
    if rows:
        notes.append(
            "The table is of the reference machines it names, from results/reference, not of this one."
        )
    lacking = missing(_NEEDS[claim.number], Machine())
    if lacking:
        measured = "; ".join(item.message for item in lacking)
    else:
        measured = (
            "not measured by this command: run both variants (`python -m harness -m variant=A,B`) and "
            "compare them with `python -m harness.compare`"
        )
    if rows:
        measured += "; on reference machines: " + "; ".join(_sentence(row) for row in rows)
    return Finding(claim, Verdict.CANNOT_RUN, measured, rows, notes)


def _read(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    return (json.loads(path.read_text()) for path in sorted(folder.glob(pattern)))


def _machine(results: Mapping[str, Any], folder: Path) -> str:
    """The GPU's name, or its folder's where the interpreter could not ask the driver."""
    return str(results["provenance"]["gpu"] or folder.name)


def _nothing(_claim: Claim, _folder: Path) -> Iterator[dict[str, Any]]:
    return iter(())


def _decoders(claim: Claim, folder: Path) -> Iterator[dict[str, Any]]:
    """The claim's pair of decoders at each batch size, measured side by side."""
    before, after = (choice.removeprefix("decoder=") for choice in (claim.baseline, claim.variant))
    for results in _read(folder, "decoders*.json"):
        for batch in results["batches"]:
            decoders: Mapping[str, Any] = batch["decoders"]
            if before in decoders and after in decoders:
                yield {
                    "machine": results["provenance"]["gpu"],
                    "batch": batch["batch"],
                    "audio_s": batch["seconds"],
                    **_faster(before, decoders[before]["samples_s"], after, decoders[after]["samples_s"]),
                }


def _engines(_claim: Claim, folder: Path) -> Iterator[dict[str, Any]]:
    """One large padded profile against several, at each length: the encoder stage alone, batch 1. Beside
    them, the one profile without padding: what several of them add to running at one's own length."""
    for results in _read(folder, "tensorrt*.json"):
        engine = results["engines"].get("multi", {})
        for row in results["rows"]:
            samples: Mapping[str, Any] = row["samples_s"]
            found = {
                "machine": _machine(results, folder),
                "TensorRT": engine.get("tensorrt"),
                "level": engine.get("optimization_level"),
                "profiles": len(engine.get("profiles_frames", ())),
                "layers": results["meta"]["layers"],
                "audio_s": row["length_s"],
            }
            if "multi" in row["invalid"]:
                yield {**found, "withheld": "multi_profile gave wrong states"}
            elif {"single", "multi"} <= set(samples):
                own = samples.get("single_own")
                own_ms = {} if own is None else {"single_profile at its own length ms": _median_ms(own)}
                pair = _faster("single_profile", samples["single"], "multi_profile", samples["multi"])
                yield {**found, **pair, **own_ms}


def _memory(_claim: Claim, folder: Path) -> Iterator[dict[str, Any]]:
    """Device memory of each encoder: its weights, and all that building and running it added."""
    for results in _read(folder, "encoders*.json"):
        origin = results["provenance"]
        machine = _machine(results, folder)
        for name, held in results["built"].items():
            if "failed" not in held:
                yield _held(machine, name, origin["layers"], held["weights_bytes"], held["added_bytes"])
    for results in _read(folder, "tensorrt*.json"):
        for name, engine in results["engines"].items():
            held, machine = engine["memory"], _machine(results, folder)
            beside = held["engine_bytes"] - held["weights_bytes"] + held["activations_bytes"]
            layers, profiles = results["meta"]["layers"], len(engine["profiles_frames"])
            encoder = f"TensorRT {name}, level {engine['optimization_level']}, profiles: {profiles}"
            yield _held(machine, encoder, layers, held["weights_bytes"], beside)


def _held(
    machine: str, encoder: str, layers: int, weights_bytes: int, beside_bytes: int | None
) -> dict[str, Any]:
    return {
        "machine": machine,
        "encoder": encoder,
        "layers": layers,
        "weights MiB": round(weights_bytes / 2**20, 1),
        "beside them MiB": "unknown" if beside_bytes is None else round(beside_bytes / 2**20, 1),
    }


_READERS = {1: _nothing, 2: _engines, 3: _memory, 4: _decoders, 9: _decoders}


def _faster(before: str, slow: Sequence[float], after: str, fast: Sequence[float]) -> dict[str, Any]:
    ratio, low, high = speedup(slow, fast)
    return {
        f"{before} ms": _median_ms(slow),
        f"{after} ms": _median_ms(fast),
        "times faster": round(ratio, 2),
        "low": round(low, 2),
        "high": round(high, 2),
    }


def _median_ms(seconds: Sequence[float]) -> float:
    return round(float(np.median(seconds)) * 1e3, 3)


def speedup(before_s: Sequence[float], after_s: Sequence[float]) -> tuple[float, float, float]:
    """Median over median with its 95 % interval, bootstrapped over the rounds that both took turns in."""
    rounds = Resampled.of(np.zeros(len(before_s), dtype=np.int64))
    slow, fast = (rounds.percentile_replicates(samples, [0.5])[0] for samples in (before_s, after_s))
    low, high = np.quantile(slow / fast, [0.025, 0.975])
    return float(np.median(before_s) / np.median(after_s)), float(low), float(high)


def _sentence(row: Mapping[str, Any]) -> str:
    if "encoder" in row:
        held = f"{row['weights MiB']} MiB of weights, {row['beside them MiB']} beside them"
        return f"{row['machine']}, {row['encoder']}, {row['layers']} layers: {held}"
    shape = f"batch {row['batch']}" if "batch" in row else _engine_shape(row)
    if "withheld" in row:
        return f"{row['machine']}, {shape}: withheld, {row['withheld']}"
    figures = f"{row['times faster']} [{row['low']}, {row['high']}] times faster"
    return f"{row['machine']}, {shape}: {figures}"


def _engine_shape(row: Mapping[str, Any]) -> str:
    return f"{row['audio_s']:g} s, {row['layers']} layers, level {row['level']}, {row['profiles']} profiles"
