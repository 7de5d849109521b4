"""Starting a worker process and holding on to it.

A fresh interpreter rather than a fork or ``multiprocessing``'s spawn: a front-end process then
imports what its plan names and nothing of the program that started it, above all not torch.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

from harness.errors import HarnessError, UsageError
from variants.topology.worker import Failed, Ready, WorkerPlan

_BOOT = "import sys; sys.path[:] = {path!r}; from variants.topology.worker import main; main({fd})"


class WorkerProcess:
    """A running process. ``pid_fd`` becomes readable when it ends, ``control_fd`` when it is ready."""

    def __init__(self, plan: WorkerPlan) -> None:
        """Raises ``UsageError`` where the plan cannot be sent to another process."""
        self.plan = plan
        try:
            message = pickle.dumps(plan)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"the parts of {plan.name} cannot be sent to another process ({error}); make_frontend and "
                "make_engine have to be functions of a module, or functools.partial of them"
            ) from error
        ours, theirs = socket.socketpair()
        with theirs:
            command = _BOOT.format(path=sys.path, fd=theirs.fileno())
            self._popen = subprocess.Popen(
                [sys.executable, "-c", command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment(plan.device),
            )
        self._control = Connection(ours.detach())
        self.pid_fd = os.pidfd_open(self._popen.pid)
        with contextlib.suppress(BrokenPipeError):  # it died at once: pid_fd tells
            self._control.send_bytes(message)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def control_fd(self) -> int:
        return self._control.fileno()

    def answer(self) -> Ready:
        """Its word that it is ready; waits. Raises the error with which its start-up ended."""
        try:
            said = self._control.recv()
        except (EOFError, OSError) as error:
            self._popen.wait()
            raise HarnessError(f"{self.plan.name} did not come up: {self.how_it_ended()}") from error
        if isinstance(said, Failed):
            raise said.error or HarnessError(f"{self.plan.name} did not come up:\n{said.trace}")
        if not isinstance(said, Ready):
            raise HarnessError(f"{self.plan.name} said {said!r} where it was to say that it is ready")
        return said

    def how_it_ended(self) -> str:
        code = self._popen.poll()
        if code is None:
            return "it is running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def ask_to_end(self) -> None:
        self._control.close()

    def end(self, timeout_s: float) -> None:
        """Wait for the end, and bring it about after ``timeout_s``."""
        self._control.close()
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self.pid_fd != -1:
            os.close(self.pid_fd)
            self.pid_fd = -1


def environment(device: int | None) -> dict[str, str]:
    """This process's, in which only the ``device``-th of its visible CUDA devices is left."""
    if device is None:
        return dict(os.environ)
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": visible[device] if device < len(visible) else str(device)}
