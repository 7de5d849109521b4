"""One HTTP request and its answer, with the instants at which its phases end.

Nothing is retried and no redirect is followed: what a server does to one request is that request's result.
A server can be slow, silent or endless; the whole exchange has one deadline and the answer one size.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpcore

from harness.errors import RequestError
from harness.spans import CoreWait, Span, now_ns

_PIECE_BYTES = 64 << 10
_OPENED = "connection.connect_tcp"
_SECURED = "connection.start_tls"
_SENT = "http11.send_request_body"
"""Names of httpcore's phases (its ``trace`` extension)."""


@dataclass(frozen=True, slots=True)
class Limits:
    timeout_s: float
    """For all of an exchange, from its name's look-up to its last byte."""
    max_answer_bytes: int


class TryAgainError(RequestError):
    """A failure that another attempt may not meet; ``after_s`` is when the server wants it."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back. Instants are nanoseconds of the monotonic clock."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; the last of a repeated one."""
    body: bytes
    asked_ns: int
    resolved_ns: int
    """When the host's name was looked up; this and the next two are ``asked_ns`` where a connection was
    there already."""
    opened_ns: int
    """TCP's."""
    connected_ns: int
    """With TLS, where there is any."""
    sent_ns: int
    found_ns: int
    """When the first byte of the answer was noticed."""
    read_ns: int
    core_wait_ns: int
    """Of the time from ``sent_ns`` to ``found_ns``: this thread could have run and had no core."""

    @property
    def connecting_s(self) -> Mapping[str, float]:
        """Seconds of a new connection's look-up of the name, of TCP's and of TLS's handshake."""
        ends = (self.asked_ns, self.resolved_ns, self.opened_ns, self.connected_ns)
        each = ((end - start) * 1e-9 for start, end in pairwise(ends))
        return dict(zip(("dns", "tcp", "tls"), each, strict=True))

    @property
    def spans(self) -> tuple[Span, ...]:
        """What a client can say of where the time went; together they are all of it."""
        return (
            Span("connect", self.asked_ns, self.connected_ns),
            Span("upload", self.connected_ns, self.sent_ns),
            Span("wait", self.sent_ns, self.found_ns),
            Span("download", self.found_ns, self.read_ns),
        )


class HttpConnection:
    """A connection that is kept between requests, for the thread that makes it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._watch = _Watch()
        self._core_wait = CoreWait()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=1,
            retries=0,
            network_backend=_Backend(self._watch),
        )

    def ask(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> Exchange:
        """POST ``body``. Raises ``RequestError`` with what went wrong on the way."""
        watch = self._watch
        watch.begin(self._limits.timeout_s)
        try:
            return self._ask(url, headers, body)
        except (httpcore.TimeoutException, TimeoutError) as error:
            raise TryAgainError(f"timed out after {self._limits.timeout_s:g} s {watch.doing}") from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            OSError,
        ) as error:
            raise TryAgainError(
                f"the connection broke {watch.doing}: {error or type(error).__name__}"
            ) from error

    def _ask(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> Exchange:
        watch, core_wait = self._watch, self._core_wait
        done_ns: dict[str, int] = {}
        waited_ns = 0

        def trace(event: str, _info: Mapping[str, Any]) -> None:
            nonlocal waited_ns
            phase, _, step = event.rpartition(".")
            if step == "complete":
                done_ns[phase] = now_ns()
                if phase == _SENT:
                    watch.sent()
                    waited_ns = core_wait.read_ns()

        asked_ns = now_ns()
        with self._pool.stream(
            "POST",
            url,
            headers=[*headers, ("content-length", str(len(body)))],
            content=_pieces(body),
            extensions={"trace": trace},
        ) as response:
            waited_ns = core_wait.read_ns() - waited_ns
            answer = self._read(response.iter_stream())
        return Exchange(
            status=response.status,
            headers=_text(response.headers),
            body=answer,
            asked_ns=asked_ns,
            resolved_ns=watch.resolved_ns if _OPENED in done_ns else asked_ns,
            opened_ns=done_ns.get(_OPENED, asked_ns),
            connected_ns=max(done_ns.get(phase, asked_ns) for phase in (_OPENED, _SECURED)),
            sent_ns=min(done_ns.get(_SENT, watch.found_ns), watch.found_ns),
            found_ns=watch.found_ns,
            read_ns=now_ns(),
            core_wait_ns=waited_ns,
        )

    def _read(self, pieces: Iterable[bytes]) -> bytes:
        answer = bytearray()
        for piece in pieces:
            answer += piece
            if len(answer) > self._limits.max_answer_bytes:
                raise RequestError(f"the answer is longer than {self._limits.max_answer_bytes} bytes")
        return bytes(answer)

    def close(self) -> None:
        self._pool.close()
        self._core_wait.close()


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _pieces(body: bytes) -> Iterator[bytes]:
    view = memoryview(body)
    return (bytes(view[start : start + _PIECE_BYTES]) for start in range(0, len(view), _PIECE_BYTES))


class _Watch:
    """The deadline of the exchange that is under way, and how far it has come."""

    def __init__(self) -> None:
        self._deadline_ns = 0
        self._is_sent = False
        self.resolved_ns = 0
        self.found_ns = 0

    def begin(self, timeout_s: float) -> None:
        self._deadline_ns = now_ns() + round(timeout_s * 1e9)
        self._is_sent = False
        self.found_ns = 0

    def resolved(self) -> None:
        self.resolved_ns = now_ns()

    def sent(self) -> None:
        self._is_sent = True

    def found(self) -> None:
        self.found_ns = self.found_ns or now_ns()

    def left_s(self) -> float:
        """Raises ``TimeoutError`` when there is none."""
        left_ns = self._deadline_ns - now_ns()
        if left_ns <= 0:
            raise TimeoutError
        return left_ns * 1e-9

    @property
    def doing(self) -> str:
        if self.found_ns:
            return "while the answer was read"
        return "before the answer came" if self._is_sent else "while the request was sent"


class _Backend(httpcore.NetworkBackend):
    """Plain sockets, all under one watch."""

    def __init__(self, watch: _Watch) -> None:
        self._sockets = httpcore.SyncBackend()
        self._watch = watch

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the watch knows better
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self._watch.resolved()
        addresses = [str(address[0]) for *_, address in found]
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError):
                return self._connect(address, port, local_address, socket_options)
        return self._connect(addresses[-1], port, local_address, socket_options)

    def _connect(self, address: str, port: int, *more: Any) -> httpcore.NetworkStream:
        stream = self._sockets.connect_tcp(address, port, self._watch.left_s(), *more)
        return _Stream(stream, self._watch)


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends with the exchange's deadline."""

    def __init__(self, stream: httpcore.NetworkStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        data = self._stream.read(max_bytes, self._watch.left_s())
        if data:
            self._watch.found()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._watch.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left_s = self._watch.left_s()
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s), self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
