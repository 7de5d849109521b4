"""Builds one engine in this process: ``python -m variants.encoder.tensorrt.build build SPEC.json OUTPUT``.

Run in a process of its own, because a build takes minutes and gigabytes, and because a crash inside
TensorRT then costs an entry of the cache and not the run. With ``--parent PID`` before its arguments it
ends with that process, whose pipe is its standard input. SIGTERM or SIGINT ends the build after the step
that it is in, where the release lets it, and keeps the timings of kernels. Lines of JSON on stdout tell the
parent how far it is: ``{"phase": …, "step": …, "steps": …}``, at last ``{"built": seconds}`` or
``{"error": text, "code": …}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ExitCode, HarnessError, UsageError
from variants.content_cache import ContentCache
from variants.encoder.tensorrt import versions
from variants.encoder.tensorrt.logs import Messages, make_logger
from variants.encoder.tensorrt.phases import KernelCount, Phases
from variants.encoder.tensorrt.spec import INPUTS, EngineSpec
from variants.lifeline import end_with_parent

Report = Callable[[dict[str, Any]], None]


class Stop:
    """Whether SIGTERM or SIGINT has ``asked`` this process to end, which it does at once unless ``gently``.

    A thread waits for them: the main thread is inside TensorRT, where no handler of Python's would run.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.gently = False

    def listen(self) -> None:
        wanted = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # in the threads that TensorRT starts as well
        threading.Thread(target=self._wait, args=[wanted], name="stop", daemon=True).start()

    def _wait(self, wanted: set[signal.Signals]) -> None:
        signal.sigwait(wanted)
        self.asked.set()
        if not self.gently:
            os._exit(int(ExitCode.INTERNAL))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, or say on stdout why not. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--parent"]:
        end_with_parent(int(given[1]))
        del given[:2]
    report = _make_report()
    try:
        if given[:1] not in (["identify"], ["build"]) or not 2 <= len(given) <= 4:
            raise UsageError(
                "usage: [--parent PID] identify SPEC.json | build SPEC.json OUTPUT [TIMING_CACHE]"
            )
        spec = EngineSpec.from_json(Path(given[1]).read_text())
        if given[0] == "identify":
            report(identify(spec))
            return int(ExitCode.DONE)
        timing = Path(given[3]) if len(given) == 4 else None
        start, stop = time.monotonic(), Stop()
        stop.listen()
        build(spec, Path(given[2]), timing, report, stop)
        report({"built": time.monotonic() - start})
    except HarnessError as error:
        report({"error": str(error), "code": int(error.exit_code)})
        return int(error.exit_code)
    return int(ExitCode.DONE)


def identify(spec: EngineSpec) -> dict[str, Any]:
    """What an engine built here is good for. Raises ``UnavailableError`` where none of the release is."""
    trt = versions.load(spec.runtime)
    target = _target(spec)
    versions.require_capability(trt, target)
    versions.require_precision(trt, target, spec.precision)
    return {"tensorrt": str(trt.__version__), "gpu": _gpu(trt, target)}


def _target(spec: EngineSpec) -> versions.Capability:
    from variants.cuda.device import Gpu

    return spec.target or Gpu().capability()


def _gpu(trt: Any, target: versions.Capability) -> str:
    """TensorRT-RTX chooses no kernels before it runs: one engine serves every GPU of a compute capability."""
    from variants.cuda.device import Gpu

    return f"sm_{target[0]}{target[1]}" if versions.is_rtx(trt) else Gpu().name()


def build(spec: EngineSpec, output: Path, timing_cache: Path | None, report: Report, stop: Stop) -> None:
    """Parse, configure, build, write. Raises ``HarnessError`` with what TensorRT's logger said, or where
    ``stop`` ended it: kernels timed until then are kept all the same."""

    def progress(phase: str, step: int, steps: int) -> None:
        report({"phase": phase, "step": step, "steps": steps})

    trt = versions.load(spec.runtime)
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    if builder is None:
        raise HarnessError(f"TensorRT could not start: {messages.explain()}")
    network = versions.create_network(trt, builder)
    progress("parsing the graph", 0, 0)
    parse(trt, network, logger, Path(spec.onnx), messages)
    config = configure(trt, builder, spec)
    timings = timing_cache if versions.keeps_timings(trt) else None
    _load_timings(config, timings)
    stop.gently = versions.watch(trt, config, Phases(len(spec.profiles), progress), stop.asked.is_set)
    if not stop.gently:
        messages.heard = KernelCount(progress)
    serialized = builder.build_serialized_network(network, config)
    _save_timings(config, timings)
    if serialized is None and stop.asked.is_set():
        raise HarnessError("the build was interrupted; kernels that were timed need not be timed again")
    if serialized is None:
        raise HarnessError(f"{versions.name(trt)} could not build {spec.onnx}: {messages.explain()}")
    output.write_bytes(bytes(serialized))
    for warning in messages.warnings:
        report({"warning": warning})


def parse(trt: Any, network: Any, logger: Any, onnx: Path, messages: Messages) -> None:
    """The graph into ``network``. ``parse_from_file`` also finds weights that lie beside the graph."""
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    raise HarnessError(f"{onnx}: TensorRT's parser refuses it: {'; '.join(reasons) or messages.explain()}")


def configure(trt: Any, builder: Any, spec: EngineSpec) -> Any:
    """The builder's configuration with every profile of ``spec``."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_bytes)
    config.builder_optimization_level = spec.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what EngineRunner.layers() tells
    versions.aim(trt, config, _target(spec))
    versions.allow_precision(trt, config, spec.precision)
    versions.share_profiles(trt, config)
    versions.set_tactic_sources(trt, config, spec.tactic_sources)
    features, lengths = INPUTS
    for shape in spec.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(features, *shape.features(spec.bins))
        profile.set_shape(lengths, *shape.lengths())
        if config.add_optimization_profile(profile) < 0:
            raise HarnessError(f"TensorRT refuses the optimization profile {shape}")
    return config


def _load_timings(config: Any, path: Path | None) -> None:
    """Kernel timings of earlier builds, interrupted ones too, so that only new shapes are timed."""
    if path is not None:
        content = path.read_bytes() if path.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)


def _save_timings(config: Any, path: Path | None) -> None:
    if path is not None:
        ContentCache(path.parent).replace_file(path.name, bytes(config.get_timing_cache().serialize()))


def _make_report() -> Report:
    """One line at a time: TensorRT reports from several threads. Libraries may print to stdout as well."""
    out, lock = sys.stdout, threading.Lock()

    def report(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(message) + "\n")
            out.flush()

    return report


if __name__ == "__main__":
    sys.exit(main())
