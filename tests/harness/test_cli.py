"""The product through its front door: ``python -m harness`` as a user or a CI job runs it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.cli import main
from harness.config.load import compose_run
from harness.config.rules import check
from harness.corpus.encode import encode
from harness.errors import UnavailableError
from harness.paths import conf_dir, datasets_dir
from harness.protocols import Audio
from harness.record import ParityStatus, Status, StoredRun, VerdictStatus, read_run

#: The engine of known cost answers a checksum of its features: no model to load, nothing hidden.
FAST = ("model=fixed_cost", "runner.processes=1", "workload.requests=24", "runner.warmup.max_passes=2")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Harness:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.results = folder / "results"
        self._places = (f"runner.results_dir={self.results}", f"runner.cache_dir={cache}")

    def command(self, *overrides: str) -> list[str]:
        return [sys.executable, "-m", "harness", *overrides, *self._places]

    def __call__(
        self, *overrides: str, before: Callable[[], None] | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*overrides), capture_output=True, text=True, timeout=timeout_s, preexec_fn=before
        )

    def runs(self) -> list[StoredRun]:
        return [read_run(path.parent) for path in sorted(self.results.glob("*/run.json"))]

    def only_run(self) -> StoredRun:
        (run,) = self.runs()
        return run


@pytest.fixture
def harness(tmp_path: Path, cache: Path) -> Harness:
    return Harness(tmp_path, cache)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[str, StoredRun]:
    """What an ordinary run printed and left behind: several tests look at the same one."""
    harness = Harness(tmp_path_factory.mktemp("plain"), cache)
    done = harness(*FAST)
    assert done.returncode == 0, done.stderr
    return done.stdout, harness.only_run()


# ---------------------------------------------------------------- a run


def test_a_run_ends_with_a_table_a_record_and_a_page(plain: tuple[str, StoredRun]) -> None:
    printed, run = plain
    assert run.run.status is Status.COMPLETE
    assert run.run.verdict.status is VerdictStatus.VALID
    assert len(run.measured) == 24
    assert "p50" in printed
    assert str(run.folder) in printed
    assert list(run.folder.glob("report/*.html"))
    leftovers = {path.suffix for path in run.folder.iterdir()}
    assert leftovers <= {".json", ".parquet", ".log", ""}


def test_a_run_says_what_it_took_until_it_could_serve(plain: tuple[str, StoredRun]) -> None:
    (process,) = plain[1].run.processes
    total_s = process.evidence["startup"].pop("total_s")
    assert set(process.evidence["startup"]) == {"import_cpu_s", "build_s", "warm_up_s"}
    assert all(seconds >= 0.0 for seconds in process.evidence["startup"].values())
    assert total_s == pytest.approx(sum(process.evidence["startup"].values())) != 0.0


def test_the_same_seed_gives_the_same_transcripts_and_the_same_shape(
    harness: Harness, plain: tuple[str, StoredRun]
) -> None:
    assert harness(*FAST, "runner.label=again").returncode == 0
    first, second = plain[1], harness.only_run()
    assert first.run.provenance.command[:4] == ("python", "-m", "harness", FAST[0])
    assert first.run.provenance.dataset.content_hash == second.run.provenance.dataset.content_hash
    assert first.run.content_hash == second.run.content_hash
    assert first.run.comparability.key == second.run.comparability.key
    columns = ["phase", "index", "request_id", "bucket", "text", "segments"]
    assert (
        first.measured[columns].reset_index(drop=True).equals(second.measured[columns].reset_index(drop=True))
    )


def test_the_ledger_balances_on_every_request_path(plain: tuple[str, StoredRun]) -> None:
    rows = plain[1].measured
    spans = rows[[column for column in rows if column.startswith("span_")]].sum(axis=1)
    np.testing.assert_allclose(spans + rows["unaccounted_s"], rows["latency_s"], atol=1e-6)
    assert rows["unaccounted_s"].median() <= 0.03 * rows["latency_s"].median()


def test_an_open_loop_counts_from_the_schedule(harness: Harness) -> None:
    done = harness(*FAST, "workload=open", "workload.requests=24", "workload.rate_per_s=40")
    rows = harness.only_run().samples
    rows = rows[rows["phase"] == "measured"]
    assert len(rows) == 24, done.stderr
    assert (rows["latency_s"] >= rows["service_s"]).all()
    assert rows["scheduled_s"].is_monotonic_increasing


def test_a_sweep_skips_what_is_finished(harness: Harness) -> None:
    sweep = ("-m", *FAST, "workload.seed=1,2")
    first = harness(*sweep)
    assert first.returncode == 0
    assert f"sweep    {harness.runs()[-1].folder / 'sweep' / 'report.html'}" in first.stdout
    assert len(harness.runs()) == 2
    again = harness(*sweep)
    assert again.returncode == 0
    assert again.stderr.count("skipped") == 2
    assert len(harness.runs()) == 2


def test_a_profiled_run_writes_a_trace_and_says_so(harness: Harness) -> None:
    done = harness(*FAST, "profiler=torch", "workload.requests=4")
    assert done.returncode == 0, done.stderr
    run = harness.only_run()
    assert run.run.profiled
    (trace,) = run.folder.glob("trace-*.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"decode", "vad", "segment", "encoder"} <= names | {"encoder"}
    assert "decode" in names


def test_nsight_systems_is_run_or_its_command_is_printed(harness: Harness) -> None:
    done = harness(*FAST, "profiler=nsys")
    if done.returncode:
        assert done.returncode == 3
        assert "nsys profile" in done.stderr
    else:
        assert list(harness.only_run().folder.glob("nsys-*"))


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("overrides", "code", "names"),
    [
        (["variant=warp_drive"], 2, "warp_drive"),
        (["warp=drive"], 2, "warp"),
        (["encoder=4"], 2, "a name, not a number"),
        (["runner.processes=none"], 2, "runner.processes"),
        (["ipc=shared_memory"], 2, "topology=inprocess"),
        (["model.weights=nowhere.nemo", "model=parakeet_tiny"], 2, "nowhere.nemo"),
        (["dataset.manifest=nowhere.jsonl"], 2, "nowhere.jsonl"),
        (["runner.start_timeout_s=60"], 2, "is called runner.silence_timeout_s now"),
        (["-m", "variant=eager,warp_drive"], 2, "warp_drive"),
    ],
)
def test_a_mistake_is_one_line_and_launches_nothing(
    harness: Harness,
    overrides: list[str],
    code: int,
    names: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command's own function: a process for each would spend its time on imports."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # the command sets it: taken back afterwards
    monkeypatch.setattr(sys, "argv", harness.command(*overrides)[2:])
    monkeypatch.setattr("harness.cli.end_on_signals", lambda: None)
    assert main() == code
    errors = capsys.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert names in line
    assert "Traceback" not in errors


def test_a_gpu_that_is_not_there_is_named(harness: Harness) -> None:
    from harness.config.needs import Machine

    if Machine().compute_capability is not None:
        pytest.skip("this machine has a GPU")
    done = harness("model.device=cuda")
    assert done.returncode == 3
    assert "GPU" in done.stderr


def test_help_lists_choices_and_exit_codes(harness: Harness) -> None:
    done = harness("--help")
    assert done.returncode == 0
    for word in ("cpu_synced", "dataset: commands", "Exit codes", "variant=eager"):
        assert word in done.stdout


def test_the_composed_configuration_can_be_read(harness: Harness) -> None:
    done = harness("--cfg", "job")
    assert done.returncode == 0
    assert "variant: eager" in done.stdout


# ---------------------------------------------------------------- bad audio


def sound(seconds: float, rate: int = 16_000) -> Audio:
    t = np.arange(round(seconds * rate)) / rate
    syllables = (np.sin(2 * np.pi * 3 * t) > 0) * np.sin(2 * np.pi * 180 * t)
    return Audio((0.4 * syllables).astype(np.float32), rate)


def pcm_wav(path: Path, frames: int) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(b"\0\0" * frames)


def float_wav(samples: np.ndarray) -> bytes:
    """A RIFF file of 32-bit floats, which may hold what integers cannot: not-a-number."""
    data = samples.astype("<f4").tobytes()
    fmt = b"fmt " + (16).to_bytes(4, "little") + bytes.fromhex("03000100803e000000fa000004002000")
    body = b"WAVE" + fmt + b"data" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    good = encode(sound(2.0), "flac", 16_000, 1, None)
    mp3 = encode(sound(3.0), "mp3", 16_000, 1, 64_000)
    broken = sound(1.0).samples.copy()
    broken[5000] = np.nan
    files = {
        "good.flac": good,
        "empty.wav": b"",
        "truncated.flac": good[: len(good) // 2],
        "words.wav": b"this is a letter, not a recording\n" * 40,
        "nan.wav": float_wav(broken),
        "good.mp3": mp3,
    }
    for name, payload in files.items():
        (tmp_path / name).write_bytes(payload)
    pcm_wav(tmp_path / "no_samples.wav", 0)
    os.mkfifo(tmp_path / "pipe.wav")
    names = [*files, "no_samples.wav", "missing.wav", "pipe.wav", "/dev/zero"]
    lines = [
        json.dumps(
            {
                "audio_filepath": name,
                "text": "something said",
                "expect_failure": not name.startswith("good"),
            }
        )
        for name in names
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_broken_recording_costs_its_own_row(harness: Harness, manifest: Path) -> None:
    done = harness(*FAST, f"dataset.manifest={manifest}", "workload.requests=16")
    assert done.returncode == 0, done.stdout + done.stderr
    run = harness.only_run()
    names = [json.loads(line)["audio_filepath"] for line in manifest.read_text().splitlines()]
    served = {names[int(i) - 1] for i in run.measured["request_id"]}
    assert {"good.flac", "good.mp3"} <= served
    failed = {
        names[int(i) - 1]: error
        for i, error in zip(run.failed["request_id"], run.failed["error"], strict=True)
    }
    assert {"empty.wav", "words.wav", "nan.wav", "missing.wav"} <= set(failed)
    assert all(len(error) > 15 and "internal" not in error for error in failed.values())
    assert "missing.wav: cannot read the recording (No such file" in failed["missing.wav"]
    assert served | set(failed) == set(names)
    assert run.run.summary["failed"] == len(run.failed)
    assert "requests failed" not in done.stdout  # as the manifest expects


def test_a_quarter_of_the_recordings_broken_voids_the_run(harness: Harness, tmp_path: Path) -> None:
    """Nobody expected it: what is left is not the set that was to be measured."""
    good = encode(sound(1.0), "wav", 16_000, 1, None)
    for name, payload in {"a": good, "b": good, "c": good, "bad": b"no audio"}.items():
        (tmp_path / f"{name}.wav").write_bytes(payload)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"audio_filepath": "{name}.wav"}}\n' for name in ("a", "b", "c", "bad")))
    done = harness(*FAST, f"dataset.manifest={path}", "workload.requests=8")
    assert done.returncode == 4, done.stdout + done.stderr
    run = harness.only_run().run
    (reason,) = run.verdict.reasons
    assert reason.rule == "requests"
    assert "000004" in reason.message
    assert run.parity is not None
    assert run.parity.status is ParityStatus.SAME


def test_a_manifest_line_that_is_not_json_is_named(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"audio_filepath": "a.wav"}\nnot json\n')
    done = harness(f"dataset.manifest={path}")
    assert done.returncode == 2
    assert "bad.jsonl, line 2" in done.stderr


@pytest.mark.slow
def test_an_hour_passes(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "hour.wav").write_bytes(encode(sound(3600.0), "wav", 16_000, 1, None))
    (tmp_path / "hour.jsonl").write_text('{"audio_filepath": "hour.wav"}\n')
    done = harness(
        *FAST,
        f"dataset.manifest={tmp_path / 'hour.jsonl'}",
        "workload.requests=1",
        "runner.warmup.max_passes=1",
        "runner.warmup.min_passes=1",
        "frontend=webrtc",
        "frontend.denoise=none",
    )
    run = harness.only_run()
    assert len(run.measured) == 1, done.stderr
    assert run.measured["audio_s"].iloc[0] == pytest.approx(3600, abs=1)
    assert run.measured["segments"].iloc[0] >= 120


# ---------------------------------------------------------------- a hostile machine


def without_root_privilege() -> None:
    """Root obeys permission bits once it has lost CAP_DAC_OVERRIDE (1); others always do."""
    if os.geteuid() == 0:
        pr_capbset_drop = 24
        ctypes.CDLL(None, use_errno=True).prctl(pr_capbset_drop, 1, 0, 0, 0)


def test_a_read_only_results_folder_is_named(harness: Harness) -> None:
    harness.results.mkdir()
    harness.results.chmod(0o555)
    done = harness(*FAST, before=without_root_privilege)
    assert done.returncode == 2
    assert str(harness.results) in done.stderr
    assert "not writable" in done.stderr


@pytest.mark.usefixtures("plain")  # which has rendered the set before the limit
def test_a_full_disk_keeps_what_was_measured(harness: Harness) -> None:
    """A limit on the size of files stands for the full disk: the same error, on any machine."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = harness(*FAST, "workload.requests=200", "runner.label=full", before=small_files)
    assert done.returncode == 3
    assert "no space left" in done.stderr
    full = harness.only_run()
    assert full.run.verdict.status is VerdictStatus.INCOMPLETE
    assert 5 < len(full.measured) < 200


def heed_interrupts() -> None:
    """A shell starts its background jobs with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def journaled(results: Path) -> int:
    return sum(path.read_bytes().count(b'"measured"') for path in results.glob("*/process-*.jsonl"))


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, Status.INTERRUPTED), (signal.SIGKILL, Status.RUNNING)]
)
def test_a_run_that_is_stopped_keeps_what_it_measured(
    harness: Harness, number: signal.Signals, status: Status
) -> None:
    command = harness.command(*FAST, "workload.requests=100000")
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_interrupts
    )
    try:
        wait_for(lambda: journaled(harness.results) >= 5, 120)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    run = harness.only_run()
    assert run.run.status is status
    assert run.run.verdict.status is VerdictStatus.INCOMPLETE
    assert len(run.measured) >= 5
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert "kept" in errors


def test_a_run_whose_terminal_is_closed_keeps_what_it_measured(harness: Harness) -> None:
    """It is told by SIGHUP, and has nobody to tell anything any more."""
    pid, terminal = pty.fork()
    if pid == 0:
        heed_interrupts()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        command = harness.command(*FAST, "workload.requests=100000")
        os.execv(command[0], command)
    wait_for(lambda: journaled(harness.results) >= 5, 120)
    os.close(terminal)
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 60)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    run = harness.only_run()
    assert run.run.status is Status.INTERRUPTED
    assert len(run.measured) >= 5


@pytest.mark.slow
def test_a_run_that_comes_no_further_is_ended_with_what_it_was_at(harness: Harness) -> None:
    """The limit has to be longer than the imports, which say nothing."""
    done = harness(*FAST, "model.options.per_request_s=600", "runner.silence_timeout_s=20")
    assert done.returncode == 1
    assert "the measured process came no further for 20 s after 'warming up'" in done.stderr
    assert "raise runner.silence_timeout_s" in done.stderr


# ---------------------------------------------------------------- every variant


def variants() -> Sequence[str]:
    return sorted(path.stem for path in (conf_dir() / "variant").glob("*.yaml"))


SHORT = ("runner.processes=1", "workload.requests=12", "runner.warmup.max_passes=2")


def lacking(variant: str) -> bool:
    """Whether this machine lacks what the variant needs."""
    try:
        check(compose_run([f"variant={variant}"]))
    except UnavailableError:
        return True
    return False


def assert_ran(run: StoredRun) -> None:
    assert run.run.evidence["engine"]
    assert len(run.measured) == 12


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants())
def test_every_variant_runs_here_or_says_why_not(harness: Harness, variant: str) -> None:
    """On the smoke set; what this machine lacks is named, with exit code 3."""
    done = harness(f"variant={variant}", *SHORT)
    if lacking(variant):
        assert done.returncode == 3
        assert "cannot run here" in done.stderr
        assert not harness.results.exists() or not harness.runs()
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert_ran(harness.only_run())


def test_every_path_around_the_model_runs(harness: Harness) -> None:
    """The same without the minutes that loading the model takes, in one sweep. Variants that differ in
    the model, which the fixed-cost engine replaces, stay out; of two names of one configuration one runs."""
    named = {}
    for variant in variants():
        config = compose_run([f"variant={variant}"])
        if (config.encoder.name, config.decoder.name, config.frontend["name"]) == (
            "eager",
            "cpu_synced",
            "host",
        ):
            named[str(replace(config, variant=""))] = variant
    around = list(named.values())
    absent = set(filter(lacking, around))
    # Beside an engine that takes a while, what the kernel takes to wake each process is a small share.
    engine = ("model=fixed_cost", "model.options.per_request_s=0.04")
    done = harness("-m", f"variant={','.join(around)}", *engine, *SHORT, timeout_s=900.0)
    assert done.returncode == (3 if absent else 0), done.stdout + done.stderr
    assert done.stderr.count("cannot run here") == len(absent)
    # Whichever process builds it is heard.
    assert done.stderr.count("measured 1: building: model fixed_cost") >= len(around) - len(absent)
    runs = {stored.run.variant: stored for stored in harness.runs()}
    assert set(runs) == set(around) - absent
    for stored in runs.values():
        assert_ran(stored)


def test_the_audio_sets_are_data_only() -> None:
    assert not list(datasets_dir().rglob("*.py"))
