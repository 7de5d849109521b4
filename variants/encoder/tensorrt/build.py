"""Builds one engine in this process: ``python -m variants.encoder.tensorrt.build SPEC.json OUTPUT``.

Run in a process of its own, because a build takes minutes and gigabytes, and because a crash inside
TensorRT then costs an entry of the cache and not the run. With ``--parent PID`` before its arguments it
ends with that process, whose pipe is its standard input. Lines of JSON on stdout tell the parent how far
it is: ``{"phase": …, "step": …, "steps": …}``, at last ``{"built": seconds}`` or
``{"error": text, "code": …}``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ExitCode, HarnessError, UsageError
from variants.encoder.tensorrt import versions
from variants.encoder.tensorrt.logs import KernelCount, Messages, make_logger
from variants.encoder.tensorrt.spec import INPUTS, EngineSpec
from variants.lifeline import end_with_parent

Report = Callable[[dict[str, Any]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, or say on stdout why not. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--parent"]:
        end_with_parent(int(given[1]))
        del given[:2]
    report = _make_report()
    try:
        if given == ["--identify"]:
            report(identify())
            return int(ExitCode.DONE)
        if len(given) not in (2, 3):
            raise UsageError("usage: build [--parent PID] SPEC.json OUTPUT [TIMING_CACHE] | build --identify")
        timing = Path(given[2]) if len(given) == 3 else None
        start = time.monotonic()
        build(EngineSpec.from_json(Path(given[0]).read_text()), Path(given[1]), timing, report)
        report({"built": time.monotonic() - start})
    except HarnessError as error:
        report({"error": str(error), "code": int(error.exit_code)})
        return int(error.exit_code)
    return int(ExitCode.DONE)


def identify() -> dict[str, Any]:
    """What an engine built here is good for."""
    from variants.cuda.device import Gpu

    trt = versions.load()
    return {"tensorrt": str(trt.__version__), "gpu": Gpu().name()}


def build(spec: EngineSpec, output: Path, timing_cache: Path | None, report: Report) -> None:
    """Parse, configure, build, write. Raises ``HarnessError`` with what TensorRT's logger said."""

    def progress(phase: str, step: int, steps: int) -> None:
        report({"phase": phase, "step": step, "steps": steps})

    trt = versions.load()
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    if builder is None:
        raise HarnessError(f"TensorRT could not start: {messages.explain()}")
    network = versions.create_network(trt, builder)
    progress("parsing the graph", 0, 0)
    parse(trt, network, logger, Path(spec.onnx), messages)
    config = configure(trt, builder, spec)
    known = _load_timings(config, timing_cache)
    if not versions.watch(trt, config, progress):
        messages.heard = KernelCount(progress)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise HarnessError(f"TensorRT {trt.__version__} could not build {spec.onnx}: {messages.explain()}")
    output.write_bytes(bytes(serialized))
    if known is not None and timing_cache is not None:
        _save_timings(config, timing_cache)
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


def _load_timings(config: Any, path: Path | None) -> Any:
    """Kernel timings of earlier builds, so that only new shapes are timed."""
    if path is None:
        return None
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save_timings(config: Any, path: Path) -> None:
    """Beside the old file, then over it: an interrupted write leaves the old one."""
    temporary = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    temporary.replace(path)


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
