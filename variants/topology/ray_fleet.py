"""Workers for shards as actors of Ray, on a cluster that is there, or on one that starts and ends with us."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from harness.errors import HarnessError, UnavailableError
from harness.protocols import Request, ServiceSpec
from harness.protocols.folders import SOCKETS, OwnFolder
from harness.protocols.interrupts import uninterrupted
from variants.topology.shard_worker import ShardWorker
from variants.topology.shards import Answer, WorkerDiedError

_CONNECT_TIMEOUT_S = 10.0


class Cluster:
    """Ray, in this process: connected to ``address``, or where that is empty, started on this machine with
    ``cpus`` of Ray's resource ``CPU``, and ended by ``close``. ``ray`` is the package."""

    def __init__(self, address: str, cpus: int) -> None:
        """Raises ``UnavailableError`` where no cluster answers, or it is another version's."""
        self._folder: OwnFolder | None = None
        self._folder_fd = -1
        self.is_own = not address
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when the package is imported, too
        import ray

        self.ray: Any = ray
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with uninterrupted():
                self._start(cpus) if self.is_own else self._connect(address)
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            raise UnavailableError(_refused(address, error)) from error
        except BaseException:
            self.close()
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's would end this process where it stands

    def _connect(self, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():  # Ray tries for minutes
            socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
        self.ray.init(address=address, logging_level="error")

    def _start(self, cpus: int) -> None:
        self._folder = OwnFolder(SOCKETS)
        self._folder_fd = os.open(self._folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home
        self.ray.init(
            address="local",  # whatever RAY_ADDRESS says
            num_cpus=cpus,
            include_dashboard=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
            # Ray opens it to everybody, but they have to pass its parent. By this name the paths of Ray's
            # sockets, which may have 107 characters, are as long for every TMPDIR.
            _temp_dir=f"/proc/{os.getpid()}/fd/{self._folder_fd}/ray",
        )

    def resource(self, name: str) -> float:
        """All that the cluster has of it."""
        return float(self.ray.cluster_resources().get(name, 0.0))

    def evidence(self) -> dict[str, Any]:
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        return {
            "version": self.ray.__version__,
            "is_own": self.is_own,
            "hosts": len({node["NodeManagerHostname"] for node in alive}),
            "gpus": self.resource("GPU"),
        }

    def close(self) -> None:
        """May be called again."""
        with uninterrupted():
            self.ray.shutdown()
            if self._folder is not None:
                self._folder.close()
            if self._folder_fd != -1:
                os.close(self._folder_fd)
                self._folder_fd = -1


class RayFleet:
    """See ``variants.topology.shards.Fleet``: an actor each, with ``resources`` as Ray counts them."""

    def __init__(
        self, cluster: Cluster, spec: ServiceSpec, size: int, at_once: int, resources: dict[str, float]
    ) -> None:
        self._ray = cluster.ray
        self._spec = spec
        self._recordings_at_once = size * at_once
        # One thread more than shards, for its evidence.
        self._actor_type = self._ray.remote(ShardWorker).options(max_concurrency=at_once + 1, **resources)
        self._actors: list[Any] = []
        # Ray calls back in a thread of its own, which whoever asks it for an actor there would wait for.
        self._listener = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._warm_up_s: tuple[float, ...] = ()

    def start(self, places: int, ready: Callable[[int], None]) -> None:
        """All of them, side by side; ``ready`` hears how many are. Raises what stopped one."""
        self._actors = [self._new() for _ in range(places)]
        self._wait([actor.start.remote(()) for actor in self._actors], ready)

    def warm_up(self, lengths_s: Sequence[float]) -> None:
        """Each, and each that comes later."""
        self._warm_up_s = tuple(lengths_s)
        self._wait([actor.warm_up.remote(self._warm_up_s) for actor in self._actors], lambda _count: None)

    def run(self, place: int, requests: Sequence[Request]) -> Future[Answer]:
        try:
            return self._future(self._actors[place].run.remote(list(requests)))
        except Exception as error:  # no room for what it takes, say
            failed: Future[Answer] = Future()
            failed.set_exception(error)
            return failed

    def replace(self, place: int) -> Future[None]:
        self._ray.kill(self._actors[place])  # it may be out of reach, and alive
        self._actors[place] = self._new()
        return self._future(self._actors[place].start.remote(self._warm_up_s))

    def evidence(self, timeout_s: float) -> list[dict[str, Any]]:
        """Of each that answers in time."""
        asked = [actor.evidence.remote() for actor in self._actors]
        answered, _ = self._ray.wait(asked, num_returns=len(asked), timeout=timeout_s)
        found = []
        for reference in answered:
            with contextlib.suppress(self._ray.exceptions.RayError):
                found.append(self._ray.get(reference))
        return found

    def _new(self) -> Any:
        return self._actor_type.remote(self._spec, self._recordings_at_once)

    def _wait(self, references: Sequence[Any], ready: Callable[[int], None]) -> None:
        left = list(references)
        while left:
            (done, *_), left = self._ray.wait(left)
            try:
                self._ray.get(done)
            except self._ray.exceptions.RayError as error:
                raise _ours(error) from error
            ready(len(references) - len(left))

    def _future(self, reference: Any) -> Future[Any]:
        """Of what Ray computes; a worker that is gone fails it with ``WorkerDiedError``."""
        future: Future[Any] = Future()

        def ended(told: Future[Any]) -> None:
            error = told.exception()
            if error is None:
                future.set_result(told.result())
            elif isinstance(error, self._ray.exceptions.RayActorError):
                future.set_exception(WorkerDiedError(_first_line(error)))
            else:
                future.set_exception(error)

        reference.future().add_done_callback(lambda told: self._listener.submit(ended, told))
        return future


def _refused(address: str, error: Exception) -> str:
    if not address:
        return f"no cluster of Ray starts on this machine: {error}"
    token = "one that asks for a token takes it from RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
    return f"topology.options.address={address}: {error}; {token}"


def _ours(error: Exception) -> HarnessError:
    """The error of ours that ended a worker's start, or one that says what did."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, HarnessError) else HarnessError(f"a worker did not start: {error}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
