"""A worker process of a service."""

from __future__ import annotations

import os
import pickle

from harness.errors import UsageError
from harness.protocols.children import Child
from variants.topology.worker import WorkerPlan


def start(plan: WorkerPlan) -> Child:
    """It says what it builds, and then that it is ready (``worker.Ready``). Raises ``UsageError`` where the
    plan cannot be sent to another process."""
    try:
        return Child("variants.topology.worker:main", plan, plan.name, environment=environment(plan.device))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the parts of {plan.name} cannot be sent to another process ({error}); make_frontend and "
            "make_engine have to be functions of a module, or functools.partial of them"
        ) from error


def environment(device: int | None) -> dict[str, str]:
    """This process's, in which only the ``device``-th of its visible CUDA devices is left."""
    if device is None:
        return dict(os.environ)
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": visible[device] if device < len(visible) else str(device)}
