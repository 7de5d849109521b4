"""The command ``python -m harness``: Hydra composes, this checks, measures, prints and exits.

Hydra ends a process with 1 for whatever goes wrong; CI needs to know what did. So the task never
raises into Hydra: it leaves its exit code here, and what Hydra itself rejects is wrong usage (2).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness import sweep
from harness.command import INTERRUPTED, end_on_signals, guarded
from harness.config.explain import one_line
from harness.config.load import from_node, register
from harness.errors import ExitCode
from harness.paths import conf_dir

if TYPE_CHECKING:
    from harness.record import StoredRun


def main() -> int:
    """Run the command line of this process. Returns the exit code."""
    register()
    end_on_signals()
    codes: list[int] = []

    def task(node: DictConfig) -> None:
        codes.append(_measure(node))
        if codes[-1] == INTERRUPTED:
            raise KeyboardInterrupt  # ends a sweep too

    # Hydra's own switch for letting its errors through, instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    application = hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)
    try:
        application()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return int(ExitCode.USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # of a sweep
        return int(end.code or ExitCode.DONE)
    except Exception as error:
        # Whatever measures is guarded: what comes here from a sweep is its launcher's.
        if (launcher := _launcher(sys.argv)) is None:
            raise
        print(f"error: hydra/launcher={launcher} cannot launch here: {one_line(error)}", file=sys.stderr)
        return int(ExitCode.UNAVAILABLE)
    return codes[-1] if codes else int(ExitCode.DONE)


def _launcher(words: Sequence[str]) -> str | None:
    """The launcher that the command line names, if it does."""
    stated = (word.partition("=")[2] for word in words if word.startswith("hydra/launcher="))
    return next(stated, None)


def _measure(node: DictConfig) -> int:
    from harness.run.launcher import exit_code, measure_and_report

    runs: list[StoredRun] = []
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN

    def measure() -> int:
        config = from_node(node)
        resume = sweeping or config.runner.resume
        runs.append(measure_and_report(config, list(hydra_config.overrides.task), resume))
        return exit_code(runs[-1])

    code = guarded(measure)
    if sweeping:
        sweep.note(code, next(iter(runs), None))
    return code
