"""Puts finished runs where they are kept: ``python -m harness.publish RUN… --to results/reference/NAME``.

A run in the results folder knows the paths of the machine it ran on. What is kept for others keeps
every figure, sample and fact of provenance, and of paths only their last part. Reports are written
anew from the copy, so that a published page shows what a reader can check.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.command import command, guarded
from harness.errors import InvalidMeasurementError, UsageError
from harness.files import explained
from harness.record import Run, Status, StoredRun, VerdictStatus, folder_name, read_run, write_run
from harness.record.store import RUN_FILE, SAMPLES_FILE

_EXAMPLES = """examples:
  python -m harness.publish results/RUN_A results/RUN_B --to results/reference/h100-80gb

exit codes: 0 published   2 wrong usage   4 a run is not valid, or was profiled
"""
_LOCAL_KEYS = {"runner.results_dir": "results", "runner.cache_dir": ".cache"}


def publish(folders: Sequence[Path], target: Path) -> list[Path]:
    """Copy the runs in ``folders`` into ``target``, each under its variant's name and, where the user gave
    one, its label. Returns the new folders.

    Raises ``InvalidMeasurementError`` for a run whose figures may not be quoted and ``UsageError`` for a name
    that is taken; nothing is copied then.
    """
    runs = [_quotable(read_run(folder)) for folder in folders]
    samples = [_samples(stored.folder) for stored in runs]
    copies = [target / _name(stored.run) for stored in runs]
    for copy in copies:
        if os.path.lexists(copy):
            raise UsageError(f"{copy}: already holds a published run; remove it or choose another --to")
        if copies.count(copy) > 1:
            raise UsageError(
                f"{copy.name}: several of these runs have this name; give each a runner.label when it is "
                "measured, or publish them with another --to"
            )
    for stored, files, copy in zip(runs, samples, copies, strict=True):
        with explained(target):
            copy.mkdir(parents=True)
            for file in files:
                shutil.copy(file, copy, follow_symlinks=False)
        write_run(copy, without_local_paths(stored.run))
    return copies


def _samples(folder: Path) -> list[Path]:
    """The files of a run that are kept as they are. Raises ``UsageError`` for one that is a link: what it
    leads to is not this run's, and may be nobody else's business."""
    files = [folder / SAMPLES_FILE, *sorted(folder.glob("chunks-*.parquet"))]
    files += sorted(folder.glob("streams-*.parquet"))
    for file in (folder / RUN_FILE, *files):
        if file.is_symlink() or not file.is_file():
            raise UsageError(f"{file}: is a link or no file; publish the folder that the run was written to")
    return files


def _name(run: Run) -> str:
    return folder_name(f"{run.variant}-{run.label}" if run.label else run.variant)


def without_local_paths(run: Run) -> Run:
    """The same run, told without the folders of the machine that it ran on."""
    # An argument may hold several overrides: ``--of 'variant=eager model.weights=…'``.
    command = tuple(" ".join(map(_local_word, word.split(" "))) for word in run.provenance.command)
    model = replace(run.provenance.model, weights=_last_part(run.provenance.model.weights))
    return replace(
        run,
        config=_local_config(run.config),
        overrides=tuple(_local_word(word) for word in run.overrides),
        provenance=replace(run.provenance, command=command, model=model),
    )


def _quotable(stored: StoredRun) -> StoredRun:
    run = stored.run
    if run.status is not Status.COMPLETE or run.verdict.status is not VerdictStatus.VALID or run.profiled:
        why = "it was profiled" if run.profiled else f"it is {run.status} and {run.verdict.status}"
        raise InvalidMeasurementError(f"{stored.folder}: {why}; only valid runs are published. Measure again")
    return stored


def _local_word(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return _last_part(word)
    return f"{key}={_LOCAL_KEYS.get(key, _last_part(value))}"


def _local_config(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _local_config(item, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if key in _LOCAL_KEYS:
        return _LOCAL_KEYS[key]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(value: str) -> str:
    """Of a path its last part; anything else as it is."""
    looks_like_a_path = value.startswith(("/", "~", "./", "../")) or Path(value).suffix in {".jsonl", ".nemo"}
    return Path(value).name if looks_like_a_path else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.publish",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of valid, finished runs")
    parser.add_argument("--to", required=True, type=Path, help="folder that keeps them, one folder a run")
    options = parser.parse_args(arguments)

    def run() -> int:
        from harness.report import write_report

        copies = publish(options.runs, options.to)
        page = write_report([read_run(copy) for copy in copies], options.to)
        print(f"published {len(copies)} runs; report {page}")
        return 0

    return guarded(run)


if __name__ == "__main__":
    sys.exit(command(main))
