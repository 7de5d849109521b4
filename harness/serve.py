"""``python -m harness.serve``: a variant's service over HTTP, to be used rather than measured.

The same processes as in a run, behind ``io=http``: what is tried here is what is measured there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from harness.command import command, end_on_signals, guarded
from harness.config.load import compose_run
from harness.config.rules import check
from harness.config.schema import RunConfig
from harness.errors import ExitCode, UsageError
from harness.protocols.interrupts import uninterrupted
from harness.run.messages import Message
from harness.run.process import library_threads
from harness.run.progress import Progress
from harness.run.service import server_plan
from harness.workload.server_process import ServerProcess

_EXAMPLES = """examples:
  python -m harness.serve                                       the eager variant of the small model
  python -m harness.serve variant=combined model.weights=/models/parakeet-tdt-0.6b-v3.nemo --port 8000
  curl -F file=@x.wav http://127.0.0.1:8000/v1/audio/transcriptions

exit codes:
  0 ended by Ctrl-C or SIGTERM   2 wrong usage   3 the variant cannot run here
"""


_CLOSING_S = 20.0
"""For what a server says of itself after its last answer."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.serve",
        description="Serve one variant over HTTP: OpenAI's transcription endpoint, metrics, and a page at /.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for python -m harness")
    parser.add_argument("--port", type=int, default=8000, help="0: the system chooses (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)
    end_on_signals()
    return guarded(lambda: _serve(_config(options.overrides, options.port)))


def _config(overrides: Sequence[str], port: int) -> RunConfig:
    if any(override.partition("=")[0] == "io" for override in overrides):
        raise UsageError("io: this command serves io=http; python -m harness measures the other doors")
    config = compose_run([*overrides, "io=http", f"io.options.port={port}"])
    options = {**config.io.options, "model": config.model.label}
    config = replace(config, io=replace(config.io, options=options))
    check(config)
    return config


def _serve(config: RunConfig) -> int:
    os.environ.update(library_threads(config.runner.threads))  # of the processes that are started here
    edges_s = config.model.buckets_s
    plan = server_plan(config, edges_s, edges_s)
    with closing(ServerProcess(plan, config.runner.silence_timeout_s)) as server:
        with Progress(config.variant) as progress:
            _start(server, progress)
        _greet(server, config)
        try:
            server.wait()
        except KeyboardInterrupt:
            with uninterrupted():
                _end(server, float(config.io.options["drain_timeout_s"]))
    return int(ExitCode.DONE)


def _start(server: ServerProcess, progress: Progress) -> None:
    stage: list[str] = []

    def building(what: str, done: int = 0, total: int = 0) -> None:
        if [what] != stage:
            stage[:] = [what]
            progress.show(Message("stage", what, total=total))
        progress.show(Message("progress", done=done))

    server.start(building)


def _greet(server: ServerProcess, config: RunConfig) -> None:
    url = f"http://{server.address}"
    print(f"{url}   {config.variant}, {config.model.label} ({config.model.weights} weights)")
    print(f"curl -F file=@x.wav {url}/v1/audio/transcriptions")
    print("Ctrl-C ends it", flush=True)


def _end(server: ServerProcess, drain_s: float) -> None:
    print("draining", file=sys.stderr, flush=True)
    ended = server.stop(drain_s + _CLOSING_S).evidence["io"]
    print(f"{ended['recordings']} recordings from {ended['connections']} connections", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(command(main))
