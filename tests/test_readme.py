"""What the README promises exists, and every command in it does what it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import struct
import subprocess
from dataclasses import dataclass, field

import pytest

from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.paths import conf_dir, datasets_dir, reference_dir
from harness.protocols import wire
from tests.harness.project_copy import ProjectCopy
from tests.harness.runs import Recipe, make_run

README = (conf_dir().parent / "README.md").read_text(encoding="utf-8")
_PYTHON = r"python -m (?:harness|variants|benchmarks|training)[\w.]*"
COMMANDS = tuple(
    dict.fromkeys(
        re.sub(r" *\\\n *", " ", line).strip()
        for line in re.findall(rf"^    ({_PYTHON}(?:\\\n|[^#\n])*)", README, re.MULTILINE)
        + re.findall(rf"`({_PYTHON}[^`]*)`", README)
    )
)
RUNS = tuple(command for command in COMMANDS if command.startswith("python -m harness "))
OTHERS = tuple(command for command in COMMANDS if command not in RUNS)


@dataclass(frozen=True)
class Trial:
    """How a command of the README is run, as written: ``more`` words, which it documents, make it short."""

    more: str = ""
    writes: str = ""
    """What it has to leave behind, as a pattern in its folder."""
    says: str = ""
    """What stands in its output, or in its refusal where it needs what is not there."""
    needs: frozenset[str] = field(default_factory=frozenset)
    after: str = ""
    """The command whose output it reads."""
    slow: bool = False


GPU = frozenset({"GPU"})
TENSORRT = frozenset({"tensorrt"})
_SHORT = (
    "model=fixed_cost workload.requests=6 runner.warmup.max_passes=1 runner.cache_dir=.cache --rounds 1 "
    "model.options.per_request_s=0.04"  # beside it, waking processes on shared cores is a small share
)
TRIALS = {
    "harness.interleave": Trial(_SHORT, "results/*-microservices-*/samples.parquet", "compare  ", slow=True),
    "harness.compare": Trial(says="latency.p50"),
    "harness.history": Trial(says="no step"),
    "harness.export": Trial(writes="figures.csv", says="exported"),
    "harness.report RUN_A": Trial(writes="reports/mine/report.html"),
    "harness.report times.json": Trial(writes="times.png"),
    "harness.claims": Trial("--quick --claims 7", "reports/claims/*.md", "claim 7", slow=True),
    "harness.peers": Trial(
        "--quick runner.cache_dir=.cache",
        "reports/peers/peers.png",
        "table    reports/peers/peers.md",
        slow=True,
    ),
    "harness.publish": Trial(writes="results/reference/NAME/*/run.json", says="published 1 runs"),
    "harness.options": Trial(says="io.options.port"),
    "harness.doctor": Trial(says="can run"),
    "harness.serve": Trial("--help", says="Serve one variant"),  # tests/harness/test_serve.py has it serve
    "harness.target": Trial("--help", says="Send one recording"),  # tests/harness/target, with servers to ask
    "harness.gate --of": Trial(f"{_SHORT.replace('--rounds 1', '--rounds 3')}", "gate.xml", slow=True),
    "harness.gate --baseline": Trial(says="same"),
    "harness.corpus list": Trial(says="voice_agent"),
    "harness.corpus plot": Trial("--items 3", "reports/dataset-voice_agent.png"),
    "harness.measure.overhead": Trial("--requests 300", says="on the clock"),
    "benchmarks.planner": Trial(writes="profiles.png", says="profile"),
    "benchmarks.encoder": Trial(says="GPU", needs=GPU),
    "benchmarks.decoder": Trial(says="GPU", needs=GPU),
    "benchmarks.whisper": Trial(says="GPU", needs=GPU),
    "benchmarks.containers": Trial("--lengths 2 --rounds 2", says="flac", slow=True),
    "benchmarks.frontend": Trial("--batches 1 --length 2 --rounds 2", says="resample", slow=True),
    "benchmarks.tensorrt export": Trial(
        "--model parakeet_tiny --layers 1 --lengths 1 --precision fp32", "probes/*.npz", slow=True
    ),
    "benchmarks.tensorrt time": Trial(says="GPU", needs=GPU, after="benchmarks.tensorrt export", slow=True),
    "benchmarks.bisect": Trial(says="tensorrt", needs=TENSORRT, slow=True),
    "benchmarks.ipc": Trial("--processes 1 --rounds 2 --lengths 1", says="shared_memory", slow=True),
    "training streams": Trial("--sentences 3", says="| cached, ", slow=True),
    "benchmarks.gate_power": Trial("--quick --trials 8", says="regression", slow=True),
}


def trial_of(command: str) -> Trial:
    (found,) = (trial for name, trial in TRIALS.items() if f"{command} ".startswith(f"python -m {name} "))
    return found


def test_every_variant_and_audio_set_is_listed() -> None:
    for folder in (conf_dir() / "variant", datasets_dir()):
        for path in folder.glob("*.yaml"):
            assert f"`{path.stem}`" in README, f"{path.name} is missing from the README's table"


@pytest.mark.parametrize("command", RUNS)
def test_every_command_line_composes(command: str) -> None:
    """But for paths and names that stand for the reader's own."""
    overrides = [word for word in shlex.split(command)[3:] if not word.startswith("-")]
    made_up = ("decoder=mine", "dataset.manifest=", "model.weights=/")
    for override in overrides:
        if not override.startswith(made_up) and "," not in override:
            compose_run([override])


def test_every_line_that_is_typed_is_known() -> None:
    """``make`` is what CI runs, ``source`` the shell's; the rest are commands of the project."""
    typed = re.findall(r"^    ([a-z]+) \S", README, re.MULTILINE)
    assert set(typed) == {"make", "source", "python"}
    assert len(OTHERS) == len(TRIALS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A copy of the project with what the README's placeholders stand for."""
    root = tmp_path_factory.mktemp("readme")
    copy = ProjectCopy.make(root, root / ".cache")
    for folder, name, seed in (
        (root, "RUN", 0),
        (root, "RUN_A", 0),
        (root, "RUN_B", 1),
        (root / "results", "BASELINE", 0),
        (root / "results", "CANDIDATE", 1),
    ):
        make_run(folder, Recipe(name, seed=seed))
    lines = [{"audio_filepath": f"calls/{n:04}.mp3", "duration": 1.0 + n % 13} for n in range(60)]
    (root / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(reference_dir() / "nvidia-h100-80gb" / "encoders.json", root / "times.json")
    return copy


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.slow) if trial_of(c).slow else c for c in OTHERS]
)
def test_every_other_command_runs_as_written_or_names_what_it_needs(
    command: str, project: ProjectCopy
) -> None:
    trial = trial_of(command)
    lacking = {need for need in trial.needs if not here(need)}
    if trial.needs and not lacking:
        pytest.skip("everything that it needs is here: it would measure for minutes")
    if trial.after:
        (before,) = (other for other in OTHERS if trial.after in other)
        assert run(project, before).returncode == 0
    done = run(project, command)
    assert done.returncode == (3 if lacking else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert trial.says in (done.stderr if lacking else done.stdout)
    assert not trial.writes or list(project.root.glob(trial.writes))


def run(project: ProjectCopy, command: str) -> subprocess.CompletedProcess[str]:
    return project.run(*shlex.split(command)[1:], *shlex.split(trial_of(command).more))


def here(need: str) -> bool:
    machine = Machine()
    return machine.compute_capability is not None if need == "GPU" else machine.has_package(need)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (conf_dir().parent / target).exists(), target


def test_a_client_can_be_written_from_the_readme_alone() -> None:
    """The section's layouts are those of the protocol's own reader and writer."""
    section = README.partition("## The wire protocol")[2].partition("\n## ")[0]
    formats = dict(re.findall(r"^\| (\d) [^|]*\| `(<\w+)`", section, re.MULTILINE))
    header = struct.pack(re.findall(r"`(<2s\w+)`", section)[0], b"SP", 2, 1, 7, 0, 8)
    opened = header + struct.pack(formats["1"], 2, 2, 10, 16_000)
    assert opened == wire.encode_open(7, wire.Open(wire.Mode.STREAM, wire.Encoding.S16LE, 10, 16_000))
    error = wire.encode_error(7, wire.ErrorCode.BUSY, "later")[16:]
    code = struct.unpack_from(formats["6"], error)
    assert (code[0], error[struct.calcsize(formats["6"]) :]) == (wire.ErrorCode.BUSY, b"later")
    text, span = "où".encode(), re.findall(r"`(<\w+)`", section.partition("| 5 ")[2])[1]
    final = (
        struct.pack(formats["5"], len(text), 1, 1, 0.5, 10, 90, 3, 4) + text + struct.pack(span, 1, 20, 30)
    )
    reply = wire.decode_final(memoryview(final))
    assert reply.transcript is not None
    assert (reply.transcript.text, reply.speech_s, reply.started_ns, reply.finished_ns) == ("où", 0.5, 10, 90)
    assert reply.spans == (wire.Span("decode", 20, 30),)
    assert (reply.batch_id, reply.batch_size) == (3, 4)
    for kind in wire.FrameType:
        assert f"| {int(kind)} {kind.name}, " in section
    for name in wire.SPAN_NAMES:
        assert name in section
