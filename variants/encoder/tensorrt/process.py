"""Starts a build in a process of its own and keeps what comes out: the parent's side of ``build``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ExitCode, HarnessError, UnavailableError, UsageError
from harness.protocols import BuildProgress, silent
from variants.content_cache import ContentCache
from variants.encoder.tensorrt.spec import EngineSpec

PLAN_NAME = "encoder.plan"
SPEC_NAME = "spec.json"
TIME_NAME = "time.json"
_BUILDER = "variants.encoder.tensorrt.build"
_TELL_EVERY_S = 2.0
_GRACE_S = 20.0
"""For the step that an interrupted build is in: choosing one kernel takes seconds, rarely a minute."""


@dataclass(frozen=True)
class BuiltEngine:
    """Where an engine lies, and the seconds that building it took, now or, where it was ``found``, once."""

    plan: Path
    key: str
    build_s: float
    found: bool

    def note(self) -> dict[str, Any]:
        """For the evidence of a run."""
        return {"engine": self.key, "build_s": self.build_s, "found_in_cache": self.found}


class EngineStore:
    """Engines under ``root``, built where they are missing."""

    def __init__(
        self, root: Path, python: Sequence[str] = (sys.executable,), progress: BuildProgress = silent
    ) -> None:
        """``python`` is the command of an interpreter that has TensorRT, cuda-bindings and this package;
        ``progress`` hears every few seconds how far a build is."""
        self._cache = ContentCache(root)
        self._python = list(python)
        self._progress = progress

    def get(self, spec: EngineSpec) -> BuiltEngine:
        """The engine of ``spec``. Raises the builder's error, with the words of TensorRT's logger."""
        machine = self._identify(spec)
        key = spec.key(str(machine["tensorrt"]), str(machine["gpu"]))
        folder = self._cache.get(key)
        if folder is not None:
            return _built(folder, key, found=True)
        timings = f"timings-{machine['tensorrt']}-{machine['gpu']}.bin".replace(" ", "_").replace("/", "_")
        with self._cache.create(key) as unfinished:
            (unfinished / SPEC_NAME).write_text(spec.to_json())
            paths = [unfinished / SPEC_NAME, unfinished / PLAN_NAME, self._cache.file(timings)]
            done = self._run(["build", *(str(path) for path in paths)])
            if not (unfinished / PLAN_NAME).is_file():
                raise HarnessError("the builder ended well and left no engine")
            (unfinished / TIME_NAME).write_text(json.dumps({"build_s": float(done["built"])}))
        folder = self._cache.get(key)
        if folder is None:
            raise HarnessError(f"the engine {key} was damaged while it was written: is the disk full?")
        return _built(folder, key, found=False)

    def _identify(self, spec: EngineSpec) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(spec.to_json())
            file.flush()
            return self._run(["identify", file.name])

    def _run(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The builder's last message. Whatever ends this block early ends the builder too."""
        command = [*self._python, "-m", _BUILDER, "--parent", str(os.getpid()), *arguments]
        with tempfile.TemporaryFile("w+") as errors, _started(command, errors) as process:
            last = self._follow(process)
            code = process.wait()
            if "error" in last:
                raise _error_of(last)
            if code != 0:
                errors.seek(0)
                tail = " ".join(errors.read().split()[-60:])
                raise HarnessError(f"the engine builder ended with status {code} and no reason: {tail}")
            return last

    def _follow(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        with _Pace(self._progress) as pace:
            for line in process.stdout or ():
                message = _parsed(line)
                if message is None:
                    continue
                if "warning" in message:
                    print(f"TensorRT: {message['warning']}", file=sys.stderr, flush=True)
                elif "phase" in message:
                    pace.reached = (f": {message['phase']}", int(message["step"]), int(message["steps"]))
                else:
                    last = message
        return last


class _Pace:
    """Tells every few seconds how far the build is, whether TensorRT says anything or not: a listener takes
    silence for a hang, and one kernel may take a minute to choose."""

    def __init__(self, progress: BuildProgress) -> None:
        self._progress = progress
        self.reached = ("", 0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build progress", daemon=True)

    def __enter__(self) -> _Pace:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        start = time.monotonic()
        while not self._ended.wait(_TELL_EVERY_S):
            phase, step, steps = self.reached
            self._progress(f"building the engine, {time.monotonic() - start:.0f} s{phase}", step, steps)


def _built(folder: Path, key: str, found: bool) -> BuiltEngine:
    seconds = json.loads((folder / TIME_NAME).read_text())["build_s"]
    return BuiltEngine(folder / PLAN_NAME, key, float(seconds), found)


@contextmanager
def _started(command: list[str], errors: Any) -> Iterator[subprocess.Popen[str]]:
    try:
        # Nothing is written to its input: it ends where this process does, and the pipe with it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    except OSError as error:
        raise UsageError(f"{command[0]}: cannot be started ({error.strerror})") from error
    try:
        yield process
    finally:
        _end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Asked first: it may have an hour of timings to keep. It answers between two kernels, or not at all."""
    if process.poll() is None:
        process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    finally:
        process.kill()
        process.wait()


def _parsed(line: str) -> dict[str, Any] | None:
    """A message of the builder; None for what a library printed among them."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _error_of(message: dict[str, Any]) -> HarnessError:
    kinds = {int(ExitCode.UNAVAILABLE): UnavailableError, int(ExitCode.USAGE): UsageError}
    return kinds.get(int(message.get("code", 1)), HarnessError)(str(message["error"]))
