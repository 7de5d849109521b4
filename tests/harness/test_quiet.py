"""No process of ours asks the network for anything, or writes outside the folders it was given."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.paths import conf_dir

ROOT = conf_dir().parent
OURS = ("harness", "variants", "benchmarks", "training")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
KEPT_BY_LIBRARIES = {"matplotlib"}
"""Its list of fonts, where every program that draws keeps it."""

FRONT_END = """
import sys
import numpy as np
from variants.frontend.vad import SileroVad
from harness.protocols import Audio
SileroVad()(Audio(np.zeros(16000, np.float32), 16000))
print(sum(name.startswith("onnxruntime") for name in sys.modules) > 0)
"""


@dataclass(frozen=True)
class Watched:
    """Folders that a process takes for its user's, empty at first."""

    root: Path

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        places = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "TMPDIR": "tmp"}
        for folder in places.values():
            (self.root / folder).mkdir(exist_ok=True)
        environment = {
            **os.environ,
            **{name: str(self.root / folder) for name, folder in places.items()},
            "PYTHONPATH": str(ROOT),
            "ORT_DISABLE_TELEMETRY": "",
        }
        return subprocess.run(
            command, env=environment, cwd=self.root, capture_output=True, text=True, timeout=300
        )

    @property
    def written(self) -> set[str]:
        """Files in the user's folders, but for what libraries are known to keep there."""
        paths = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return {str(path) for path in paths if not KEPT_BY_LIBRARIES & set(path.parts)}


@pytest.fixture
def watched() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="q", dir="/tmp") as root:  # a socket's path is to be short
        yield Watched(Path(root))


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """A prefix that runs a command where no network is and every name that it asks for is noted."""
    prefix = [*NAMESPACE, sys.executable, str(Path(__file__).with_name("no_network.py"))]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if tried.returncode:
        pytest.skip("this user may not make namespaces")
    return prefix


def names_asked(done: subprocess.CompletedProcess[str]) -> list[str]:
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def test_the_namespace_notes_a_name_that_is_asked_for(namespace: list[str], watched: Watched) -> None:
    ask = "import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass"
    assert names_asked(watched.run([*namespace, sys.executable, "-c", ask])) == ["example.org"]


def test_the_detector_of_speech_keeps_nothing_of_its_own(watched: Watched) -> None:
    done = watched.run([sys.executable, "-c", FRONT_END])
    assert done.stdout.strip() == "True", done.stderr
    assert watched.written == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["variant=eager", "frontend.vad=silero"],
        ["variant=microservices", "frontend.vad=silero", "model=fixed_cost"],
        ["variant=epoll", "frontend.vad=silero", "model=fixed_cost"],
        ["variant=eager", "model=nemo_transcribe"],
        ["variant=eager", "model=onnx_asr", "model.options.cache_dir=rendered"],
        ["variant=eager", "model=sherpa_onnx", "model.options.cache_dir=rendered"],
    ],
)
def test_a_run_asks_for_no_name_and_writes_where_it_was_told(
    namespace: list[str], watched: Watched, overrides: list[str]
) -> None:
    """Long enough for a library that gathers events before it sends them."""
    places = ["runner.results_dir=results", "runner.cache_dir=rendered", "runner.processes=1"]
    requests = ["workload.requests=400", "runner.warmup.max_passes=2"]
    done = watched.run([*namespace, sys.executable, "-m", "harness", *overrides, *places, *requests])
    assert done.returncode == 0, done.stderr
    assert names_asked(done) == []
    assert {Path(path).parts[0] for path in watched.written} == {"results", "rendered"}


def test_onnxruntime_is_never_imported_before_it_is_told_to_be_quiet() -> None:
    """Neither by us nor by what NeMo imports."""
    sources = {path: path.read_text() for folder in OURS for path in (ROOT / folder).rglob("*.py")}
    for pattern, home, before in (
        (r"^\s+import onnxruntime", "variants/onnx_sessions.py", "forbid_telemetry()"),
        (r"^\s+(import|from) nemo\.collections\.asr\.mod", "variants/models/parakeet.py", "_before_nemo()"),
    ):
        importing = [path for path, text in sources.items() if re.search(pattern, text, re.M)]
        assert importing == [ROOT / home]
        for function in ast.walk(ast.parse(sources[importing[0]])):
            words = ast.unparse(function) if isinstance(function, ast.FunctionDef) else ""
            if found := re.search(pattern, words, re.M):
                assert before in words[: found.start()], words
