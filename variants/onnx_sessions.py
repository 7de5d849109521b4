"""ONNX Runtime on the CPU, told what only it can be told: to keep quiet, and how many threads it has."""

from __future__ import annotations

import os
from typing import Any


def forbid_telemetry() -> None:
    """Before anything imports ONNX Runtime, which otherwise looks up names, keeps a database and has a thread
    of its own; only the environment stops that, and only before the import."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def quiet_onnxruntime() -> Any:
    """The module, a tenth of a second to import."""
    forbid_telemetry()
    import onnxruntime

    return onnxruntime


def session_options(threads: int) -> Any:
    """``SessionOptions`` of sessions that compute with so many threads. It does not read OMP_NUM_THREADS."""
    options = quiet_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
