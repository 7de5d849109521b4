"""A worker process of a service."""

from __future__ import annotations

import pickle

from harness.errors import UsageError
from harness.protocols.children import Child
from variants.topology.worker import WorkerPlan


def start(plan: WorkerPlan) -> Child:
    """It says what it builds, and then that it is ready (``worker.Ready``). Raises ``UsageError`` where the
    plan cannot be sent to another process."""
    try:
        return Child("variants.topology.worker:main", plan, plan.name)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the parts of {plan.name} cannot be sent to another process ({error}); make_frontend and "
            "make_engine have to be functions of a module, or functools.partial of them"
        ) from error
