"""Live streams to realtime servers: our own, and some that behave badly."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from harness.config.load import compose_run
from harness.config.rules import check
from harness.config.schema import TargetConfig
from harness.errors import UsageError
from harness.record import VerdictStatus, read_run
from harness.run.service import server_plan
from harness.target.g711 import a_law, mu_law
from harness.target.realtime import foreign_server
from harness.workload.server_process import ServerProcess
from harness.workload.streaming import StreamingPlan, StreamingResult, stream_load
from variants.io.http_sound import Ear, Format

TEXT = "conversation.item.input_audio_transcription"
COMPLETED = json.dumps({"type": f"{TEXT}.completed", "transcript": "one two three four five"})
Act = Callable[[ServerConnection, str], None]
"""What to do with a connection and an event of its client."""


@contextmanager
def serving(act: Act) -> Iterator[str]:
    def converse(connection: ServerConnection) -> None:
        try:
            for message in connection:
                act(connection, json.loads(message)["type"])
        except (ConnectionClosed, OSError):
            pass

    with serve(converse, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1"
        server.shutdown()


def streamed(
    url: str, *lengths_s: float, connections: int = 3, speed: float = 1.0, **options: object
) -> StreamingResult:
    target = foreign_server(TargetConfig(name="realtime", url=url, timeout_s=5.0, **options))
    own = {"whole": True, "acknowledged": False, "lag_budget_s": 1.0, "speed": speed}
    plan = StreamingPlan(connections=connections, chunk_s=0.1, final_timeout_s=1.0, seed=1, **own)
    rng = np.random.default_rng(0)
    recordings = [rng.uniform(-0.5, 0.5, round(s * 16_000)).astype(np.float32) for s in lengths_s or (0.45,)]
    return stream_load(target, recordings, plan)


def answers(connection: ServerConnection, kind: str) -> None:
    if kind.endswith("append"):
        connection.send(json.dumps({"type": f"{TEXT}.delta", "delta": "one"}))
    if kind.endswith("commit"):
        time.sleep(0.05)
        connection.send(COMPLETED)


# ---------------------------------------------------------------- good servers


def test_our_own_server_is_heard_and_answers() -> None:
    config = compose_run(["io=http", "model=fixed_cost"])
    with ServerProcess(server_plan(config, [1.0], [1.0])) as server:
        result = streamed(f"ws://{server.address}/v1", 0.45, 0.72, codec="g711_ulaw")
    assert set(result.records.errors) == {""}
    counts = {text.split()[1] for text in result.records.texts}
    lengths = {0: "7200", 1: "11520"}
    assert counts == {lengths[int(which)] for which in result.assigned}
    summary = result.summary()
    assert (summary.lost_chunks, summary.acknowledged, summary.reasons) == (0, False, ())


@pytest.mark.parametrize("speed", [1, 2])
def test_latency_is_from_the_end_of_speech_to_the_final_text(speed: int) -> None:
    with serving(answers) as url:
        result = streamed(url, speed=speed)
    assert len(result.latencies_s) == 3
    assert (result.latencies_s >= 0.05).all()
    streams = result.by_stream()
    assert (result.latencies_s == streams["final_s"]).all()
    assert not np.isnan(streams["first_text_s"]).any()
    assert set(result.records.texts) == {"one two three four five"}
    due = result.records.scheduled_ns[0]
    assert np.diff(due[due > 0]).tolist() == [100_000_000 // speed] * 3 + [50_000_000 // speed]
    assert (result.lags_s >= 0).all()


def test_telephone_codes_come_back_as_nearly_what_they_were() -> None:
    samples = np.random.default_rng(0).integers(-30_000, 30_000, 4000).astype("<i2")
    for name, code in (("audio/pcmu", mu_law), ("audio/pcma", a_law)):
        heard = Ear(Format.of({"type": name}), 8000).hear(base64.b64encode(code(samples))) * 32768
        assert np.abs(heard - samples).max() <= 1024
        assert np.abs(heard - samples).mean() < 300


# ---------------------------------------------------------------- bad ones


def silent(_connection: ServerConnection, _kind: str) -> None:
    pass


def closes(connection: ServerConnection, kind: str) -> None:
    if kind.endswith("append"):
        connection.close(1011, "no GPU left")


def vanishes(connection: ServerConnection, _kind: str) -> None:
    connection.socket.close()


def complains(connection: ServerConnection, _kind: str) -> None:
    connection.send(json.dumps({"type": "error", "error": {"message": "no such model s3cret"}}))


def babbles(connection: ServerConnection, _kind: str) -> None:
    connection.send("[" * 5000)


def chatters(connection: ServerConnection, _kind: str) -> None:
    while True:
        connection.send(json.dumps({"type": f"{TEXT}.delta", "delta": "x" * 1000}))
        time.sleep(0.001)


def overflows(connection: ServerConnection, _kind: str) -> None:
    connection.send("x" * (5 << 20))


BAD = {
    silent: "no final text within 1 s",
    closes: "no GPU left|closed the connection",
    vanishes: "closed the connection|connection broke",
    complains: "the server said",
    babbles: "no event",
    chatters: "no final text within 1 s",
    overflows: "connection broke|closed the connection",
}


def test_a_bad_server_costs_its_streams_and_the_load_ends() -> None:
    acts = iter(BAD)
    chosen: dict[ServerConnection, Act] = {}

    def each_its_own(connection: ServerConnection, kind: str) -> None:
        chosen.setdefault(connection, next(acts, answers))
        chosen[connection](connection, kind)

    with serving(each_its_own) as url:
        result = streamed(url, connections=len(BAD) + 1)
    errors = list(result.records.errors)
    assert errors.count("") == 1, errors
    for why in BAD.values():
        assert any(re.search(why, error) for error in errors), (why, errors)
    assert not result.summary().valid


def test_nobody_at_the_address_is_each_stream_s_error() -> None:
    assert all("could not connect" in error for error in streamed("ws://127.0.0.1:1/v1").records.errors)


# ---------------------------------------------------------------- through the front door


def test_a_run_is_judged_by_its_words(tmp_path: Path, manifest: Path) -> None:
    with serving(answers) as url:
        target = ["target=realtime", f"target.url={url}", "target.max_wer=0.05", "runner.processes=1"]
        load = ["workload=streaming", "workload.requests=12", "workload.lag_budget_s=1"]
        places = [f"runner.results_dir={tmp_path}", f"dataset.manifest={manifest}"]
        done = subprocess.run(
            [sys.executable, "-m", "harness", *target, *load, *places],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*/run.json")
    stored = read_run(path.parent)
    assert stored.run.verdict.status is VerdictStatus.VALID
    assert stored.run.variant == "realtime"
    assert "final text p50" in done.stdout
    assert 0 < stored.measured["audio_s"].max() < 0.7
    assert set(stored.measured["reference_text"]) == {"one two three four five"}


def test_one_recording_says_what_was_understood(manifest: Path) -> None:
    with serving(answers) as url:
        command = [sys.executable, "-m", "harness.target", "target=realtime", f"target.url={url}"]
        more = ["workload=streaming", f"dataset.manifest={manifest}"]
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for line in ("after the end of speech", "(0 of 5 words wrong)"):
        assert line in done.stdout


def test_whole_recordings_are_not_spoken_live() -> None:
    with pytest.raises(UsageError, match="spoken live"):
        check(compose_run(["target=realtime", "target.url=ws://host"]))
    with pytest.raises(UsageError, match="ws:// or wss://"):
        check(compose_run(["target=realtime", "target.url=http://host", "workload=streaming"]))
