"""A sweep whose runs may be measured in other processes, or on other machines, by a launcher of Hydra.

What each run came to is a file in its folder below ``hydra.sweep.dir``: a launcher need not return anything,
and that folder is all that the processes of a sweep share. ``AtEnd`` is called by Hydra (``hydra.callbacks``
in conf/config.yaml) in the process that was asked for the sweep.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from harness.command import guarded
from harness.errors import ExitCode, HarnessError
from harness.files import write_text

if TYPE_CHECKING:
    from harness.record import StoredRun

_JOB_FILE = "job.json"


def note(code: int, stored: StoredRun | None) -> None:
    """What the job that Hydra runs in this process came to."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    run = None if stored is None else str(stored.folder.resolve())
    write_text(folder / _JOB_FILE, json.dumps({"exit_code": code, "run": run}))


class AtEnd(Callback):
    """Ends a sweep: one page of all its runs, and the code of the first that was not done."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Raises ``SystemExit`` with the sweep's exit code."""
        raise SystemExit(guarded(lambda: ended(Path(config.hydra.sweep.dir))))


def ended(folder: Path) -> int:
    """Read what the jobs of a sweep left in ``folder``, in their order, and report on it.

    Raises ``HarnessError`` for a job that left nothing: its launcher has lost it.
    """
    from harness.record import read_run
    from harness.report import write_report

    told = [_read(path) for path in sorted(_jobs(folder), key=lambda path: int(path.name))]
    runs = [read_run(Path(each["run"])) for each in told if each["run"] is not None]
    if len(runs) > 1:
        print(f"\nsweep    {write_report(runs, runs[-1].folder / 'sweep')}")
    return next((int(each["exit_code"]) for each in told if each["exit_code"]), int(ExitCode.DONE))


def _jobs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isdigit()]


def _read(job: Path) -> dict[str, Any]:
    path = job / _JOB_FILE
    if not path.is_file():
        raise HarnessError(f"{path}: is missing: the launcher has lost this job; its log may say why")
    told: dict[str, Any] = json.loads(path.read_text())
    return told
