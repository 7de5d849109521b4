"""The pause of a full collection against the size of the start-up heap.

``python -m harness.claims.heap`` prints it for this interpreter; it needs nothing but NumPy, so that
other versions of Python can be asked.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from statistics import median

from harness.errors import HarnessError
from variants import registry

HEAPS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
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
    policy = registry.load("gc", policy_name)(registry.options("gc", policy_name, {"objects": objects}))
    policy.after_startup()
    for _ in range(_COLLECTIONS):
        gc.collect()
    full = [pause.duration_s for pause in policy.pauses() if pause.generation == 2]
    control.send(median(full[-_COLLECTIONS:]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.claims.heap", description=__doc__)
    parser.add_argument(
        "--objects", default=",".join(map(str, HEAPS)), help="heap sizes (default: %(default)s)"
    )
    parser.add_argument(
        "--gc", default="default,frozen", help="choices of the gc axis (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        heaps = [int(part) for part in options.objects.split(",")]
    except ValueError:
        parser.error(f"--objects {options.objects}: give whole numbers, such as 100000,1000000")
    policies = options.gc.split(",")
    try:
        print(f"Python {sys.version.split()[0]}", *(f"gc={policy}" for policy in policies), sep="\t")
        for objects in heaps:
            print(objects, *(f"{pause_s(policy, objects) * 1e3:.3g} ms" for policy in policies), sep="\t")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
