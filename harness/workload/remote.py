"""The server under test as a service: a process of its own, reached over persistent connections."""

from __future__ import annotations

from collections.abc import Iterable

from harness.protocols import BuildProgress, Evidence, Reply, Request, silent
from harness.protocols.server import CollectorPause, ServerEvidence, ServerPlan
from harness.target.own_server import HttpRecordings
from harness.workload.client_recordings import RecordingClient
from harness.workload.server_process import ServerProcess

_REQUEST_TIMEOUT_S = 600.0


class RemoteService:
    """``harness.protocols.Service`` in front of a ``ServerProcess``."""

    def __init__(self, plan: ServerPlan, silence_s: float) -> None:
        self._server = ServerProcess(plan, silence_s)
        self._make_client = HttpRecordings if plan.io == "http" else RecordingClient
        self._client: HttpRecordings | RecordingClient | None = None
        self._ended: ServerEvidence | None = None

    def start(self, progress: BuildProgress = silent) -> None:
        self._server.start(progress)
        self._client = self._make_client(self._server.address, _REQUEST_TIMEOUT_S)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Nothing: the server warms itself up before it listens (``ServerPlan.warm_up_s``)."""

    def handle(self, request: Request) -> Reply:
        """Send one recording and wait for its final text. A broken connection fails the request."""
        if self._client is None:
            raise RuntimeError("start() the service before use")
        return self._client.handle(request)

    @property
    def pid(self) -> int:
        """The serving process."""
        return self._server.pid

    def evidence(self) -> Evidence:
        """Drains and ends the server: what it did is known when it has done it."""
        return self._end().evidence

    def pauses(self) -> tuple[CollectorPause, ...]:
        """The collector's pauses in the serving process. Ends the server, as ``evidence`` does."""
        return self._end().pauses

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._server.close()

    def _end(self) -> ServerEvidence:
        if self._ended is None:
            if self._client is not None:
                self._client.close()
            self._ended = self._server.stop()
        return self._ended
