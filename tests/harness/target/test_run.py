"""Foreign servers through the front door: measured, judged and compared as the rest is."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest

from harness.config.load import compose_run
from harness.config.rules import check
from harness.config.schema import TargetConfig
from harness.errors import NotComparableError, UsageError
from harness.protocols import Reply, Request
from harness.record import Model, RunWriter, Status, StoredRun, VerdictStatus, read_run
from harness.run.judge import judge
from harness.run.service import server_plan
from harness.same_ground import comparability_of
from harness.side_by_side import compare_runs
from harness.spans import now_ns
from harness.target.service import TargetService
from harness.workload.server_process import ServerProcess
from tests.harness.runs import Recipe, config, make_run, process_record, provenance, samples, unmeasured
from tests.harness.target.servers import hangs_up_after, response, saying, sends, serving, silent
from variants.topology.warmup import tone_wav

QUICK = ("runner.processes=1", "workload.requests=24", "runner.warmup.max_passes=2")


def measured(
    folder: Path, manifest: Path, url: str, *overrides: str
) -> tuple[subprocess.CompletedProcess[str], StoredRun]:
    places = (
        f"runner.results_dir={folder}",
        f"dataset.manifest={manifest}",
        f"runner.cache_dir={folder}/cache",
    )
    command = [
        sys.executable,
        "-m",
        "harness",
        "target=openai",
        f"target.url={url}",
        *QUICK,
        *places,
        *overrides,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (path,) = folder.glob("*/run.json")
    return done, read_run(path.parent)


def holding(stored: StoredRun, secret: str) -> list[Path]:
    """Files of the run that hold ``secret``."""
    written = [path for path in stored.folder.rglob("*") if path.is_file()]
    assert written
    return [path for path in written if secret.encode() in path.read_bytes()]


def right(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(saying("One, two, three, four, five.", "server: other/3\r\n"))


def test_a_good_server_s_run_is_valid_and_says_nothing_of_the_key(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret-of-mine")
    with serving(right) as url:
        done, stored = measured(
            tmp_path, manifest, url, "target.max_wer=0.05", "target.key_variable=SOME_KEY"
        )
    assert done.returncode == 0, done.stderr
    run = stored.run
    assert run.verdict.status is VerdictStatus.VALID
    assert run.variant == "openai"
    assert run.provenance.model == Model("whisper-1", "foreign", "", details={"server": ["other/3"]})
    assert run.memory is not None
    assert run.memory.rss_bytes is None
    assert run.comparability.fields["target.url"] == url
    assert not [name for name in run.comparability.fields if name.startswith(("model.", "encoder."))]
    rows = stored.measured
    assert len(rows) == 24
    assert (rows["span_wait_s"] > 0).all()
    assert (rows["span_encoder_s"] == 0).all()
    assert "target.max_wer is 5.00%" in done.stdout
    assert not holding(stored, "s3cret")
    assert "s3cret" not in done.stdout + done.stderr


def test_a_hidden_host_is_in_no_file_and_retries_are_said(tmp_path: Path, manifest: Path) -> None:
    asked = count(1)

    def right_but_for_every_tenth(sock: socket.socket, request: bytes) -> None:
        (hangs_up_after(b"") if next(asked) % 10 == 0 else right)(sock, request)

    with serving(right_but_for_every_tenth) as url:
        wanted = ("target.max_wer=0.05", "target.hide_host=true", "target.retries=1")
        done, stored = measured(tmp_path, manifest, url, *wanted)
    assert done.returncode == 0, done.stderr
    assert not holding(stored, url.split("/")[2])
    assert stored.run.comparability.fields["target.url"].startswith("http://host-")
    again = int((stored.measured["attempts"] == 2).sum())
    assert again >= 2
    assert f"{again} of 24 requests were sent more than once" in done.stdout


@pytest.mark.parametrize(
    ("text", "max_wer", "status", "why"),
    [
        ("one two three four five", 0.05, VerdictStatus.VALID, None),
        ("one two three four five", None, VerdictStatus.UNVERIFIED, "target.max_wer"),
        ("one two three", 0.1, VerdictStatus.INVALID, "WER 40.00%"),
        (None, 0.1, VerdictStatus.INVALID, "no request was answered"),
    ],
    ids=["right", "no limit", "wrong", "failed"],
)
def test_what_a_run_is_worth(
    tmp_path: Path, text: str | None, max_wer: float | None, status: VerdictStatus, why: str | None
) -> None:
    run = replace(unmeasured(Recipe()), status=Status.COMPLETE)
    target = asdict(TargetConfig(name="openai", max_wer=max_wer))
    run = replace(run, config={**run.config, "runner": {"max_failed_share": 0.05}, "target": target})
    writer = RunWriter.open(tmp_path, run)
    record = replace(process_record(0), evidence={"target": {"host": "a"}})
    with writer.journal(record) as journal:
        for row in samples(Recipe(processes=1, requests=60, noise=0.0), 0):
            error = "it broke" if text is None else None
            said = {"text": text or "", "token_ids": (), "reference_text": "one two three four five"}
            journal.append(replace(row, error=error, **said))
        journal.finish(record)
    merged = writer.merge()
    judged = judge(replace(run, processes=merged.processes), merged.samples, writer.folder, (), False)
    assert judged.verdict.status is status, judged.verdict
    if why is not None:
        assert why in judged.verdict.reasons[0].message


@pytest.mark.slow  # a second whole run; test_service has each bad answer
def test_bad_answers_cost_their_rows_and_the_run_ends(tmp_path: Path, manifest: Path) -> None:
    bad = (sends(response(b"no", "503 Busy")), silent)
    open_loop = ("workload=open", "workload.rate_per_s=50", "workload.clients=4", "target.timeout_s=1")
    with serving(*[right] * 4, *bad, right) as url:
        done, stored = measured(
            tmp_path, manifest, url, "target.max_wer=0.05", "workload.requests=24", *open_loop
        )
    errors = stored.samples["error"].dropna().tolist()
    assert len(errors) == 2
    assert any("HTTP 503" in error for error in errors)
    assert any("timed out" in error for error in errors)
    assert done.returncode == 4
    assert "2 of 24 requests failed" in stored.run.verdict.reasons[0].message


@pytest.fixture
def own_server() -> Iterator[str]:
    served = compose_run(["io=http", "model=fixed_cost", "frontend=webrtc"])
    with ServerProcess(server_plan(served, [1.0], [1.0])) as server:
        yield f"http://{server.address}/v1"


def test_one_request_says_what_was_understood(own_server: str, manifest: Path) -> None:
    command = [sys.executable, "-m", "harness.target", "target=openai", f"target.url={own_server}"]
    done = subprocess.run(
        [*command, f"dataset.manifest={manifest}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "HTTP 200, application/json",
        "connect ",
        "decode ",
        "said     one two three",
        "words wrong",
    ):
        assert line in done.stdout


def test_one_request_to_a_bad_server_says_why(manifest: Path) -> None:
    with serving(sends(response(b"", "404 Not Found"))) as url:
        command = [sys.executable, "-m", "harness.target", "target=openai", f"target.url={url}"]
        done = subprocess.run(
            [*command, f"dataset.manifest={manifest}"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 4
    assert "HTTP 404" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["workload=streaming"], "takes whole recordings"),
        (["io=epoll"], "has its own door"),
        (["profiler=torch"], "sees this side alone"),
    ],
)
def test_what_a_foreign_server_cannot_do_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check(compose_run(["target=openai", "target.url=http://host", *overrides]))


def test_two_servers_may_say_different_things_each_within_its_limit(tmp_path: Path) -> None:
    def measured_at(url: str, name: str, say: Callable[[str], str]) -> StoredRun:
        target = asdict(TargetConfig(name="openai", url=url, max_wer=0.5))
        recipe = Recipe(name, variant="openai", say=say, processes=3, requests=60)
        return make_run(tmp_path, replace(recipe, changes={"config": {**config(recipe), "target": target}}))

    first = measured_at("http://a/v1", "first", str)
    other = measured_at("http://b/v1", "other", lambda text: text.rsplit(" ", 1)[0])
    with pytest.raises(NotComparableError, match=r"target\.url: http://a/v1 / http://b/v1"):
        compare_runs(first, other)
    assert compare_runs(first, other, subjects=["target.url"]).withheld is None


def test_a_run_from_before_there_were_targets_compares_with_one_of_our_own() -> None:
    before = config(Recipe())
    now = {**before, "target": asdict(TargetConfig())}
    assert comparability_of(now, provenance()) == comparability_of(before, provenance())


def test_another_server_or_model_is_another_ground() -> None:
    def ground(version: str = "1", **target: object) -> str:
        asked = TargetConfig(name="openai", url="http://a", **target)
        origin = replace(provenance(), model=Model("m", "foreign", "", details={"server": [version]}))
        return comparability_of({**config(Recipe()), "target": asdict(asked)}, origin).key

    same = ground()
    assert ground(max_wer=0.1, key_variable="X") == same
    assert same not in (ground(model="other"), ground(stream=True), ground(version="2"))


# ---------------------------------------------------------------- others' clients, at the same server


@contextmanager
def fixed_server(cost_s: float) -> Iterator[tuple[str, TargetService]]:
    """The address of a server that computes so long, and our client of it."""
    served = compose_run(
        ["io=http", "model=fixed_cost", "frontend=webrtc", f"model.options.per_request_s={cost_s}"]
    )
    with ServerProcess(server_plan(served, [2.0], [2.0])) as server:
        service = TargetService(TargetConfig(name="openai", url=f"http://{server.address}/v1"))
        yield f"http://{server.address}", service
        service.close()


def latency_s(reply: Reply) -> float:
    assert reply.error is None
    return (reply.finished_ns - reply.started_ns) * 1e-9


@pytest.mark.slow  # half a minute of requests, and it compares times
def test_its_latency_is_that_of_a_plain_httpx_script() -> None:
    sound, ours, theirs = tone_wav(2.0), [], []
    with fixed_server(0.05) as (url, service), httpx.Client(trust_env=False, timeout=30.0) as plain:
        for _ in range(220):
            reply = service.handle(Request("r", sound))
            ours.append(latency_s(reply))
            began_ns = now_ns()
            form = {"file": ("x.wav", sound)}
            answer = plain.post(f"{url}/v1/audio/transcriptions", files=form, data={"model": "whisper-1"})
            assert answer.json()["text"] == (reply.transcript.text if reply.transcript else "")
            theirs.append((now_ns() - began_ns) * 1e-9)
    assert np.median(ours[20:]) == pytest.approx(np.median(theirs[20:]), rel=0.03)


@pytest.mark.slow  # a load generator of many processes starts three times, and it compares times
@pytest.mark.skipif(shutil.which("aiperf") is None, reason="AIPerf is not on the PATH (pip install aiperf)")
def test_its_latency_is_that_of_another_load_generator(tmp_path: Path) -> None:
    sound, ours, theirs = tone_wav(2.0), [], []
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text(json.dumps({"audio": f"wav,{base64.b64encode(sound).decode()}"}))
    with fixed_server(0.2) as (url, service):  # its dozen processes take 3 ms of a shared core for a request
        for turn in range(3):
            ours += [latency_s(service.handle(Request("r", sound))) for _ in range(70)][10:]
            theirs += aiperf_latencies_s(url, inputs, tmp_path / str(turn))
    assert np.median(ours) == pytest.approx(np.median(theirs), rel=0.03)


def aiperf_latencies_s(url: str, inputs: Path, folder: Path) -> list[float]:
    command = (
        f"aiperf profile --endpoint-type audio-transcription --url {url} --model m --input-file {inputs} "
        "--custom-dataset-type single_turn --concurrency 1 --warmup-request-count 10 --request-count 60 "
        f"--ui none --output-artifact-dir {folder}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=120)
    rows = map(json.loads, (folder / "profile_export.jsonl").read_text().splitlines())
    measured = [row for row in rows if row["metadata"]["benchmark_phase"] != "warmup"]
    assert len(measured) == 60
    return [row["metrics"]["request_latency"]["value"] * 1e-3 for row in measured]
