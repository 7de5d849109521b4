"""One thread for all connections: asyncio's protocols, on libuv's loop (``uvloop``) or the standard one.

The same service as ``epoll``, with the loop, the sockets' buffers and the sending left to a library
that many servers run on. What is asked here is what that costs, or saves, beside a loop of our own;
``options.loop`` tells the share of asyncio's interface from the share of the loop in C.

Connections come through our own door, which tells one client too many so, and each is then handed to
the loop. A client is not read while the loop holds more unsent answers than the high water, or while
the backend has no room for its work: its socket's buffer fills and it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import os
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import uvloop

from harness.protocols import Evidence
from harness.protocols.wire import ErrorCode, FrameReader, WireError
from harness.spans import now_ns
from variants.io.conversation import Conversation, Shared
from variants.io.intake import Intake
from variants.io.service import Service
from variants.io.types import IoOptions, Switches, Traffic
from variants.topology.types import Backend, CompletionQueue

_SCRATCH_BYTES = 256 << 10
_ACCEPTS_PER_WAKE_UP = 64
_ACCEPT_AGAIN_S = 1.0
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Options(IoOptions):
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    """``uvloop``: libuv's; ``asyncio``: the standard library's."""


def build(backend: Backend, options: Options) -> AsyncioServer:
    return AsyncioServer(backend, options)


class _Connection(asyncio.BufferedProtocol):
    """One client. The loop calls it when bytes have come or may go again.

    Buffered, so that large frames are received where they stay, as ``FrameReader`` wants it. With
    ``data_received`` asyncio's own loop allocates 256 KiB for each read, which costs more than a chunk
    of 3 KB does; to uvloop it is all one.
    """

    __slots__ = (
        "_finished_ns",
        "_options",
        "_reading",
        "_server",
        "_target",
        "_transport",
        "_unsent",
        "_unsent_since_ns",
        "_writable",
        "conversation",
        "intake",
    )

    def __init__(self, server: AsyncioServer, shared: Shared, options: IoOptions) -> None:
        self._server = server
        self._options = options
        self._transport: asyncio.Transport | None = None
        self.conversation = Conversation(shared, server.completions.put, self)
        self.intake = Intake(self.conversation, FrameReader(shared.limits), server.scratch, now_ns())
        self._target = server.scratch
        self._reading = True
        self._writable = True  # less waits to be sent than the high water
        self._unsent = 0  # bytes that the loop holds
        self._unsent_since_ns = 0  # when the client last took a byte of what waits for it
        self._finished_ns = 0  # when it was told that no more comes

    # ------------------------------------------------------------ called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast(asyncio.Transport, transport)  # uvloop's has another base
        high = self._options.high_water_bytes
        stream.set_write_buffer_limits(high=high, low=high)
        self._server.guarded(self, self.settle)  # the server may have begun to drain

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        self._target = self.intake.reader.target(self._server.scratch)
        return self._target

    def buffer_updated(self, nbytes: int) -> None:
        if self._finished_ns:
            return  # it was told why; what it still sends is of no interest
        self._server.guarded(self, self._received, nbytes)

    def eof_received(self) -> bool:
        """False closes the connection; with True it may still be written to."""
        if self._finished_ns:
            return False
        self._reading = False
        self._server.guarded(self, self._ended)
        return True

    def pause_writing(self) -> None:
        self._writable = False
        self.conversation.traffic.over_high_water += self._reading
        self._read_or_not()

    def resume_writing(self) -> None:
        self._writable = True
        self._read_or_not()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and exc is None:
            self._note_sent(self._transport, now_ns())
        self._transport = None
        self.intake.backlog = []
        self._server.guarded(self, self.conversation.abandon)
        self._server.gone(self)

    def _received(self, nbytes: int) -> None:
        self.intake.feed(self._target, nbytes, now_ns())
        self.settle()

    def _ended(self) -> None:
        self.intake.end(now_ns())
        self.settle()

    # ------------------------------------------------------------ called by the server

    def settle(self) -> None:
        """Send what is to be sent, close what is finished, and read on or not."""
        conversation, intake = self.conversation, self.intake
        if self._transport is None:  # not yet here, or gone
            return
        if conversation.out:
            self._send(self._transport)
        if self._reading and not (intake.backlog or conversation.ending or conversation.draining):
            return
        if intake.backlog:
            self._server.wait_for_room(self)
        if intake.concluded:
            self._finish(self._transport)
        else:
            self._read_or_not()

    def retry(self) -> None:
        """There may be room in the backend."""
        self.intake.retry(now_ns())
        self.settle()

    def check(self, at_ns: int) -> None:
        """What does this client owe, and since when?"""
        if self._transport is None:
            return
        self._note_sent(self._transport, at_ns)
        if self._unsent:
            if at_ns - self._unsent_since_ns > self._options.slow_peer_timeout_s * 1e9:
                # It does not read, so there is no way to tell it.
                self.conversation.traffic.errors[ErrorCode.SLOW_PEER.name.lower()] += 1
                self.abort()
        elif self._finished_ns:
            if at_ns - max(self._finished_ns, self._unsent_since_ns) > _LINGER_S * 1e9:
                self.abort()
        elif error := self.intake.overdue(at_ns, self._options):
            self.conversation.fail(error)
            self.settle()

    def abort(self) -> None:
        """Hang up without another word; ``connection_lost`` follows."""
        if self._transport is not None:
            self._note_sent(self._transport, now_ns())
            self._unsent = 0  # the rest will never be
            self._transport.abort()

    # ------------------------------------------------------------ bytes out

    def _send(self, transport: asyncio.Transport) -> None:
        data = self.conversation.take_out()
        if self._finished_ns or transport.is_closing():
            return  # answers to what the client had asked for before it ended the connection
        at_ns = now_ns()
        if not self._unsent:
            self._unsent_since_ns = at_ns
        self._unsent += len(data)
        transport.write(data)
        self._note_sent(transport, at_ns)

    def _note_sent(self, transport: asyncio.Transport, at_ns: int) -> None:
        """The loop sends on its own what does not leave at once; see how far it has come."""
        left = transport.get_write_buffer_size() if self._unsent else 0
        if left < self._unsent:
            self.conversation.traffic.bytes_out += self._unsent - left
            self._unsent, self._unsent_since_ns = left, at_ns

    def _read_or_not(self) -> None:
        """A client is read while there is room for its work and it takes its answers."""
        wanted = self._writable and not (self.intake.backlog or self.intake.eof or self.conversation.ending)
        if wanted == self._reading or self._transport is None or self._finished_ns:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _finish(self, transport: asyncio.Transport) -> None:
        """All is said. Closing with unread input would discard answers on the way (TCP resets), so
        say that no more comes and wait a moment for the client to hang up."""
        if self.intake.eof:
            transport.close()  # once everything is sent
        elif not self._finished_ns:
            self._finished_ns = now_ns()
            transport.write_eof()  # once everything is sent
            self._reading = True
            transport.resume_reading()


class AsyncioServer(Service):
    """See ``variants.io.types.Server``."""

    def __init__(self, backend: Backend, options: Options) -> None:
        super().__init__(backend, options)
        self._make_loop = _LOOPS[options.loop]
        self.completions = CompletionQueue()
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        """Every read goes here first: the loop calls for a buffer and fills it in one breath."""
        self._tick_s = min(1.0, options.idle_timeout_s / 4, options.slow_peer_timeout_s / 4)
        self._connections: set[_Connection] = set()
        self._arrivals: set[asyncio.Task[None]] = set()  # accepted, and not yet connected to the loop
        self._blocked: set[_Connection] = set()  # connections with a backlog
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()  # there is no connection
        self._empty.set()
        self._ran_on: dict[str, str] = {}
        self._completion_wake_ups = 0

    # ------------------------------------------------------------ life

    def serve(self) -> None:
        self._door.bind()
        self._started_switches = Switches.now()
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._serve())

    def close(self) -> None:
        self.completions.close()
        super().close()

    def evidence(self) -> Evidence:
        living = [connection.conversation for connection in list(self._connections)]
        own = {"completion_wake_ups": self._completion_wake_ups, **self._ran_on}
        return self._evidence("asyncio_loop", 1, self._peak, living, **own)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._ran_on = _describe(loop)
        loop.set_exception_handler(self._count_unhandled)
        loop.add_reader(self._stop_fd, self._stop_requested)
        loop.add_reader(self.completions.fileno(), self._complete)
        loop.add_reader(self._door.fileno(), self._accept, loop)
        self._tick(loop)
        try:
            await self._stopping.wait()
            self._begin_drain(loop)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._options.drain_timeout_s)
        finally:
            await self._close_all(loop)

    # ------------------------------------------------------------ called by the loop

    def _complete(self) -> None:
        """Answer what the backend has finished, one ``write`` for each connection."""
        self._completion_wake_ups += 1
        touched: dict[_Connection, None] = {}
        for completion in self.completions.drain():
            conversation = completion.job.token[0].conversation
            touched[conversation.owner] = None
            self.guarded(conversation.owner, conversation.complete, completion)
        for connection in touched:
            self.guarded(connection, connection.settle)
        if touched and self._blocked:
            self._retry_blocked()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at every connection for what it owes. Once a second, so thousands cost a millisecond."""
        loop.call_later(self._tick_s, self._tick, loop)
        self._shared.retry()
        if self._blocked:
            self._retry_blocked()
        at_ns = now_ns()
        for connection in list(self._connections):
            self.guarded(connection, connection.check, at_ns)

    def _retry_blocked(self) -> None:
        blocked, self._blocked = self._blocked, set()
        for connection in blocked:
            self.guarded(connection, connection.retry)

    def _stop_requested(self) -> None:
        os.eventfd_read(self._stop_fd)
        self._stopping.set()

    def guarded(self, connection: _Connection, act: Callable[..., None], *arguments: Any) -> None:
        """A defect that one client's bytes or answers bring to light costs that client's connection."""
        try:
            act(*arguments)
        except Exception as error:
            self._traffic.errors[f"internal_{type(error).__name__}"] += 1
            connection.abort()

    def _count_unhandled(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """What the loop itself caught; where a client's transport was at fault, the loop has closed it."""
        self._traffic.errors[f"internal_{type(context.get('exception')).__name__}"] += 1

    # ------------------------------------------------------------ coming and going

    def _accept(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_ACCEPTS_PER_WAKE_UP):
            try:
                sock = self._door.accept()
            except OSError as error:
                self._traffic.errors[f"accept_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                # No file left: the listener would be ready again at once, for ever.
                loop.remove_reader(self._door.fileno())
                loop.call_later(_ACCEPT_AGAIN_S, self._accept_again, loop)
                return
            if sock is None:
                return
            self._admit(loop, sock)

    def _accept_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._stopping.is_set():
            loop.add_reader(self._door.fileno(), self._accept, loop)

    def _admit(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._connections) >= self._options.max_connections:
            self._traffic.errors["too_many_connections"] += 1
            self._door.turn_away(sock)
            return
        connection = _Connection(self, self._shared, self._options)
        self._connections.add(connection)
        self._empty.clear()
        self._accepted += 1
        self._peak = max(self._peak, len(self._connections))
        arrival = loop.create_task(self._hand_over(loop, connection, sock))
        self._arrivals.add(arrival)
        arrival.add_done_callback(self._arrivals.discard)

    async def _hand_over(
        self, loop: asyncio.AbstractEventLoop, connection: _Connection, sock: socket.socket
    ) -> None:
        try:
            await loop.connect_accepted_socket(lambda: connection, sock)
        except Exception as error:  # the loop would not have it
            self._traffic.errors[f"internal_{type(error).__name__}"] += 1
            sock.close()
            connection.connection_lost(error)

    def wait_for_room(self, connection: _Connection) -> None:
        """The backend is full: whenever it has finished something, try this connection's frames again."""
        self._blocked.add(connection)

    def gone(self, connection: _Connection) -> None:
        self._traffic.merge(connection.conversation.traffic)
        connection.conversation.traffic = Traffic()
        self._blocked.discard(connection)
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _begin_drain(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._door.fileno())
        self._door.close()
        for connection in list(self._connections):
            connection.conversation.drain()
            self.guarded(connection, connection.settle)

    async def _close_all(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._door.fileno() >= 0:
            loop.remove_reader(self._door.fileno())
            self._door.close()
        await asyncio.gather(*self._arrivals)
        for connection in list(self._connections):
            if connection.conversation.sessions:
                connection.conversation.fail(WireError(ErrorCode.DRAINING, "the server is going down"))
                self.guarded(connection, connection.settle)
            connection.abort()
        await self._empty.wait()


def _describe(loop: asyncio.AbstractEventLoop) -> dict[str, str]:
    """Which loop runs, asked of the loop itself, and its version."""
    package = type(loop).__module__.partition(".")[0]
    version = importlib.metadata.version(package) if package == "uvloop" else platform.python_version()
    return {"loop": package, "loop_class": type(loop).__name__, "loop_version": version}


_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,  # whatever loop policy the process may have
}
