"""run.json: what goes in comes out, and what is not understood is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from harness.errors import UsageError
from harness.record import (
    SCHEMA_VERSION,
    GcPauses,
    GpuSample,
    Memory,
    Parity,
    ParityStatus,
    Reason,
    Telemetry,
    Tolerance,
    Verdict,
    VerdictStatus,
    content_hash,
    new_run_id,
    run_from_json,
    run_to_json,
)
from harness.record.schema import migrate
from tests.harness.runs import Recipe, process_record, unmeasured


def full_run():
    telemetry = Telemetry(
        "A GPU", 0.5, (GpuSample(0.1, power_w=300.0, throttle_reasons=("sw_power_cap",)), GpuSample(0.6))
    )
    return unmeasured(
        Recipe(
            changes={
                "verdict": Verdict(VerdictStatus.INVALID, (Reason("ledger", "too much in no span"),)),
                "memory": Memory(10, gpu_bytes=15, gpu_method="processes", gpu_used_bytes=20),
                "gc": GcPauses(3, 0.2, 0.1, (2, 1, 0)),
                "parity": Parity(
                    ParityStatus.SAME, "eager", Tolerance("wer", 0.01), 10, 2, "close", 0.0, -0.1, 0.1
                ),
                "processes": (
                    replace(process_record(0, block=0), telemetry=(telemetry,)),
                    process_record(1, block=1),
                ),
                "series": "abc",
            }
        )
    )


def test_a_run_survives_json():
    run = full_run()
    assert run_from_json(json.loads(json.dumps(run_to_json(run)))) == run


def test_what_was_not_observed_stays_null():
    document = run_to_json(full_run())
    assert document["provenance"]["git"]["commit"] == "0123abc"
    assert document["processes"][0]["telemetry"][0]["samples"][1]["power_w"] is None
    assert document["memory"]["gpu_allocated_bytes"] is None


def test_version_1_knew_one_device_and_the_allocators_memory():
    document = run_to_json(full_run())
    telemetry = document["processes"][0]["telemetry"][0]
    memory = {"rss_bytes": 10, "gpu_allocated_bytes": 3, "gpu_reserved_bytes": 4, "gpu_used_bytes": 20}
    document["processes"][0] |= {"telemetry": telemetry, "memory": memory}
    document["processes"][1] |= {"telemetry": None, "memory": None}
    document |= {"schema_version": 1, "telemetry": telemetry, "memory": memory}
    del document["provenance"]["gpus"]
    document["provenance"]["gpu"] = {"name": "A GPU", "driver": "580", "memory_bytes": 80}
    run = run_from_json(document)
    assert [gpu.name for gpu in run.provenance.gpus] == ["A GPU"]
    assert [len(process.telemetry) for process in run.processes] == [1, 0]
    assert run.memory == run.processes[0].memory == Memory(10, 4, "allocator", None, 3, 4, 20)


def test_a_newer_schema_is_refused_with_the_file_and_the_remedy():
    document = {**run_to_json(full_run()), "schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(UsageError, match=r"results/x/run\.json: schema version .* update the harness"):
        run_from_json(document, "results/x/run.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": None}, "schema_version"),
        ({"schema_version": 0}, "unknown"),
        ({"mode": "sideways"}, r"run\.json\.mode: 'sideways' is none of closed"),
        ({"variant": 7}, r"run\.json\.variant: expected str"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_document_that_is_no_run_is_refused_by_key(change, message):
    with pytest.raises(UsageError, match=message):
        run_from_json({**run_to_json(full_run()), **change})


def test_a_missing_key_is_named():
    document = run_to_json(full_run())
    del document["provenance"]["cpu"]
    with pytest.raises(UsageError, match=r"run\.json\.provenance: key 'cpu' is missing"):
        run_from_json(document)


def test_older_versions_are_brought_forward_one_step_at_a_time():
    steps = {1: lambda d: {**d, "b": d["a"] + 1}, 2: lambda d: {**d, "c": d["b"] + 1}}
    assert migrate({"schema_version": 1, "a": 1}, "run.json", steps, current=3) == {
        "schema_version": 3, "a": 1, "b": 2, "c": 3,
    }  # fmt: skip


def test_a_content_hash_ignores_the_order_of_keys_only():
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": (1, 2), "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_run_ids_sort_by_time_and_fit_in_a_path():
    first = new_run_id("model.precision=bf16/x", datetime(2026, 5, 21, 9, 0, tzinfo=UTC))
    second = new_run_id("eager", datetime(2026, 5, 21, 10, 0, tzinfo=UTC))
    assert first < second
    assert "/" not in first
