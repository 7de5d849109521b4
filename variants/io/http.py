"""HTTP: the endpoint of OpenAI's API, ``POST /v1/audio/transcriptions``, on uvicorn and libuv's loop.

What every client library speaks, at the price of a form, a header and often a connection for each
recording. Live sound comes over a websocket, ``/v1/realtime``. Beside them: ``/health``, ``/ready``,
``/metrics`` (Prometheus), ``/v1/models`` and a page at ``/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

import h11
import uvicorn
import uvloop
from msgspec import Meta
from uvicorn.protocols.http.h11_impl import H11Protocol

from harness.protocols import Evidence
from harness.protocols.options import Count, Positive, PositiveSeconds, Seconds
from harness.protocols.sockets import Address, listen, raise_open_files
from harness.protocols.wire import Limits as WireLimits
from variants.io.conversation import Shared
from variants.io.http_answers import Refused, refusal
from variants.io.http_app import App, Rules
from variants.io.http_jobs import Jobs
from variants.io.http_realtime import Patience
from variants.io.http_upload import UploadLimits
from variants.io.types import Budget, Switches, Traffic, Visits, evidence_of
from variants.topology.types import Backend

_SPARE_FILES = 64
_MAX_EVENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Options:
    host: str = "127.0.0.1"
    """Loopback only: what serves others stands behind a proxy that knows them."""
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 0
    """0: the system chooses."""
    backlog: Count = 4096
    """Connections that may wait to be accepted."""
    max_connections: Positive = 1000
    """One more is answered 503 and turned away."""
    max_upload_bytes: Positive = 256 << 20
    """Of one recording."""
    max_buffered_bytes: Positive = 1 << 30
    """Of unfinished recordings that all requests together may hold; one holds at most as much as it leaves
    to the others."""
    max_queued: Positive = 256
    """Recordings that the backend may hold; one more is answered 429."""
    max_jobs: Positive = 64
    """Chunks of one websocket that the backend may hold at once; meanwhile it is not read."""
    sample_rate: Positive = 16_000
    """The rate of the engine, to which live sound is resampled."""
    idle_timeout_s: PositiveSeconds = 60.0
    """Silence between two requests, or two events of a websocket, after which a connection is closed."""
    slow_peer_timeout_s: PositiveSeconds = 10.0
    """For a request's headers to arrive, and for each piece of its body."""
    upload_timeout_s: PositiveSeconds = 300.0
    """For all of a body."""
    drain_timeout_s: Seconds = 10.0
    """For requests that are under way to finish after SIGTERM."""
    model: str = "parakeet"
    """The name under /v1/models. Requests may name any."""


def build(backend: Backend, options: Options) -> HttpServer:
    return HttpServer(backend, options)


def _rules(options: Options, upload_bytes: int) -> Rules:
    slow_s = options.slow_peer_timeout_s
    return Rules(
        UploadLimits(upload_bytes, slow_s, options.upload_timeout_s),
        Patience(options.idle_timeout_s, slow_s),
        options.max_queued,
        options.model,
    )


class HttpServer:
    """See ``variants.io.types.Server``."""

    def __init__(self, backend: Backend, options: Options) -> None:
        self._options = options
        self._budget = Budget(options.max_buffered_bytes)
        self._jobs = Jobs(backend)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        upload = min(options.max_upload_bytes, options.max_buffered_bytes // 2)
        limits = WireLimits(max_session_bytes=upload)
        self._shared = Shared(backend, limits, options.sample_rate, self._budget, options.max_jobs)
        self._app = App(self._jobs, self._shared, _rules(options, upload))
        self._guests = Guests(options)
        self._listener: socket.socket | None = None
        self._started_switches = Switches.now()
        self.address = Address()

    def bind(self) -> Address:
        if self._listener is None:
            limit = self._options.max_connections
            raise_open_files(limit + _SPARE_FILES, f"io.options.max_connections={limit}")
            wanted = Address(host=self._options.host, port=self._options.port)
            self._listener, self.address = listen(wanted, self._options.backlog)
        return self.address

    def serve(self) -> None:
        self.bind()
        self._started_switches = Switches.now()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        os.eventfd_write(self._stop_fd, 1)

    def evidence(self) -> Evidence:
        counts = self._app.counts
        statuses = {f"{route} {status}": n for (route, status), n in sorted(counts.requests.items())}
        defects = {f"internal_{name}": n for name, n in counts.defects.items()}
        recordings = sum(counts.seconds.counts)
        traffic = Traffic(
            counts.bytes_in, counts.bytes_out, recordings=recordings, streams=counts.conversations
        )
        traffic.errors.update(defects | dict(self._guests.errors))
        visits = Visits(self._guests.accepted, self._guests.peak, 1, self._guests.peak)
        own = {"loop": "uvloop", "server": f"uvicorn {uvicorn.__version__}", "answers": statuses}
        return evidence_of("http", visits, self._started_switches, traffic, self._budget, **own)

    def close(self) -> None:
        self._jobs.close()
        os.close(self._stop_fd)

    async def _serve(self) -> None:
        server = _Uvicorn(self._config())
        loop = asyncio.get_running_loop()
        loop.add_reader(self._jobs.fileno(), self._complete)
        loop.add_reader(self._stop_fd, self._stop_requested, server)
        try:
            await server.serve(sockets=[cast(socket.socket, self._listener)])
        finally:
            for connection in list(server.server_state.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    def _complete(self) -> None:
        self._jobs.complete()
        self._shared.retry()

    def _stop_requested(self, server: uvicorn.Server) -> None:
        os.eventfd_read(self._stop_fd)
        self._app.draining = True
        server.should_exit = True

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            cast(Any, self._app),
            http=cast(type[asyncio.Protocol], partial(_Connection, self._guests)),
            ws="websockets-sansio",
            ws_max_size=_MAX_EVENT_BYTES,
            ws_per_message_deflate=False,  # a small message that unfolds into a large one costs memory
            lifespan="off",
            log_config=None,
            log_level="critical",  # what clients do wrong is counted, not printed
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=self._options.backlog,
            timeout_keep_alive=cast(int, self._options.idle_timeout_s),  # of call_later: a float will do
            timeout_graceful_shutdown=cast(int, self._options.drain_timeout_s),
        )


class Guests:
    """Who is connected, and how many there may be."""

    def __init__(self, options: Options) -> None:
        self.headers_s = options.slow_peer_timeout_s
        self.limit = options.max_connections
        self.accepted = 0
        self.peak = 0
        self.errors: dict[str, int] = {}

    def note(self, error: str) -> None:
        self.errors[error] = self.errors.get(error, 0) + 1


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the serving process's own affair: see ``HttpServer.stop``."""
        yield


class _Connection(H11Protocol):
    """uvicorn's connection, which would wait for a request's headers for ever, and has no place to turn
    one client too many away."""

    def __init__(self, guests: Guests, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guests = guests
        self._deadline: asyncio.TimerHandle | None = None
        self._upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._guests.limit:
            self._turn_away(Refused(503, f"{self._guests.limit} clients are here already", retry_after_s=1))
            return
        self._guests.accepted += 1
        self._guests.peak = max(self._guests.peak, len(self.connections))
        self._watch()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection is the websocket's from here on, which counts and times it itself."""
        super().handle_websocket_upgrade(event)
        self._upgraded = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # the next request has begun
            self._unset_keepalive_if_required()
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """What has begun has to become a request in time; from then on the application keeps the time."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self._upgraded or self.transport.is_closing():
            self._forget_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._guests.headers_s, self._overdue)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        self._turn_away(Refused(408, f"no request was complete within {self._guests.headers_s:g} s"))

    def _turn_away(self, refused: Refused) -> None:
        self._guests.note(f"refused_{refused.status}")
        answer = refusal(refused)
        head = f"HTTP/1.1 {refused.status} {_PHRASES[refused.status]}\r\nconnection: close\r\n"
        headers = (("content-type", answer.content_type), ("content-length", str(len(answer.body))))
        rest = "".join(f"{name}: {value}\r\n" for name, value in (*headers, *answer.headers))
        self.transport.write(f"{head}{rest}\r\n".encode() + answer.body)
        self.transport.close()


_PHRASES = {408: "Request Timeout", 503: "Service Unavailable"}
