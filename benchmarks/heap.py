"""The pause of a full collection against the size of the start-up heap, of this interpreter.

``python -m benchmarks.heap`` needs nothing but NumPy and SciPy, so that other versions of Python can be
asked: 3.11 collects when an object is allocated, 3.12 and later between bytecodes; 3.14.0 to 3.14.4 collected
the old generation in increments, 3.14.5 and 3.15 went back to the collector of 3.13 (What's New in
Python 3.15).
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from harness.arguments import positive_integers
from harness.command import command, guarded
from harness.errors import ExitCode, HarnessError
from harness.measure.stats import nearest_rank
from variants import registry

_COLLECTIONS = 5


def pause_s(policy: str, objects: int) -> float:
    """Median pause of a full collection in a fresh process that has ``objects`` at start-up."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_collect, args=(policy, objects, theirs))
    process.start()
    theirs.close()
    try:
        found: float = ours.recv()
    except EOFError:
        raise HarnessError(f"the process with {objects:,} objects ended without a word") from None
    finally:
        process.join()
    return found


def _collect(policy_name: str, objects: int, control: Connection) -> None:
    policy = registry.make("gc", policy_name, {"objects": objects})
    policy.after_startup()
    for _ in range(_COLLECTIONS):
        gc.collect()
    full = [pause.duration_s for pause in policy.pauses() if pause.generation == 2]
    control.send(nearest_rank(full[-_COLLECTIONS:], 0.5))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heap", description=__doc__)
    heaps = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
    add = parser.add_argument
    add("--objects", type=positive_integers, default=heaps, help="heap sizes (default: 10,000 to 3,000,000)")
    add("--gc", default="default,frozen", help="choices of the gc axis (default: %(default)s)")
    options = parser.parse_args(arguments)
    policies = options.gc.split(",")

    def run() -> int:
        print(f"Python {sys.version.split()[0]}", *(f"gc={policy}" for policy in policies), sep="\t")
        for objects in options.objects:
            print(objects, *(f"{pause_s(policy, objects) * 1e3:.3g} ms" for policy in policies), sep="\t")
        return int(ExitCode.DONE)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(command(main))
