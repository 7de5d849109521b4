"""One thread for all connections: the kernel says which of them are ready (Linux ``epoll``).

Level-triggered, one ``recv`` for each readiness, one scratch buffer for all connections. A
connection whose answers pile up, or whose work the backend has no room for, is not read until that
has passed: its socket's buffer fills and the client waits.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from harness.protocols import Evidence
from harness.protocols.wire import ErrorCode, FrameReader, WireError
from harness.spans import now_ns
from variants.io.conversation import Conversation, Shared
from variants.io.intake import Intake
from variants.io.service import Service
from variants.io.types import IoOptions, Switches, Traffic
from variants.topology.types import Backend, Completion, CompletionQueue

_SCRATCH_BYTES = 256 << 10
_ACCEPTS_PER_WAKE_UP = 64
_EVENTS_PER_WAKE_UP = 128
"""Answers leave once the events of a turn are dealt with: a bound on what the last waits for the first."""
_LINGER_S = 1.0


Options = IoOptions


def build(backend: Backend, options: Options) -> EpollServer:
    return EpollServer(backend, options)


class _Connection:
    """One client: its socket, its unsent bytes and when it last did what it owed."""

    __slots__ = (
        "closed",
        "conversation",
        "intake",
        "interest",
        "lingering_since_ns",
        "sock",
        "unsent",
        "unsent_since_ns",
    )

    def __init__(
        self,
        sock: socket.socket,
        shared: Shared,
        completions: CompletionQueue,
        scratch: memoryview,
        at_ns: int,
    ) -> None:
        self.sock = sock
        self.conversation = Conversation(shared, completions.put, self)
        self.intake = Intake(self.conversation, FrameReader(shared.limits), scratch, at_ns)
        self.unsent: bytes | memoryview = b""
        self.interest = select.EPOLLIN
        self.unsent_since_ns = 0  # when the client last took a byte of what waits for it
        self.lingering_since_ns = 0
        self.closed = False

    @property
    def at_ease(self) -> bool:
        """The common case, and cheap to tell: it is read, nothing waits, and nothing ends."""
        conversation, intake = self.conversation, self.intake
        return self.interest == select.EPOLLIN and not (
            self.unsent
            or conversation.out
            or intake.backlog
            or intake.eof
            or conversation.ending
            or conversation.draining
        )

    @property
    def finished(self) -> bool:
        """Everything that this client will ever get has been sent."""
        return not self.unsent and not self.conversation.out and self.intake.concluded


class EpollServer(Service):
    """See ``variants.io.types.Server``."""

    def __init__(self, backend: Backend, options: IoOptions) -> None:
        super().__init__(backend, options)
        self._epoll = select.epoll()
        self._completions = CompletionQueue()
        self._connections: dict[int, _Connection] = {}
        self._blocked: dict[int, _Connection] = {}  # connections with a backlog
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._now_ns = now_ns()
        self._tick_ns = int(min(1.0, options.idle_timeout_s / 4, options.slow_peer_timeout_s / 4) * 1e9)
        self._next_tick_ns = 0
        self._draining_since_ns = 0
        self._paused_accepting = False
        self._wake_ups = 0

    # ------------------------------------------------------------ life

    def serve(self) -> None:
        self._door.bind()
        self._epoll.register(self._door, select.EPOLLIN)
        self._epoll.register(self._completions, select.EPOLLIN)
        self._epoll.register(self._stop_fd, select.EPOLLIN)
        self._started_switches = Switches.now()
        try:
            while not self._drained():
                self._turn()
        finally:
            self._close_all()

    def close(self) -> None:
        self._completions.close()
        super().close()

    def evidence(self) -> Evidence:
        living = [connection.conversation for connection in list(self._connections.values())]
        return self._evidence("epoll", 1, self._peak, living, wake_ups=self._wake_ups)

    # ------------------------------------------------------------ the loop

    def _turn(self) -> None:
        """Wait for something to happen and deal with all of it."""
        events = self._epoll.poll(self._tick_ns * 1e-9, _EVENTS_PER_WAKE_UP)
        self._now_ns = now_ns()
        self._wake_ups += 1
        connections = self._connections
        others = []
        for fd, event in events:
            connection = connections.get(fd)
            if connection is None:
                others.append(fd)
            elif event == select.EPOLLIN:
                self._guarded(connection, self._read, connection)
            else:
                self._guarded(connection, self._ready, connection, event)
        # Whether or not its turn came among the events: with thousands of clients ready it may be long
        # in coming, and answers would pile up.
        self._complete(self._completions.drain())
        # Newcomers last: one that were given the number of a connection closed in this turn would
        # otherwise receive what was meant for that one.
        if self._stop_fd in others:
            self._begin_drain()
        if self._door.fileno() in others:
            self._accept()
        if self._now_ns >= self._next_tick_ns:
            self._next_tick_ns = self._now_ns + self._tick_ns
            self._tick()

    def _guarded(self, connection: _Connection, act: Callable[..., None], *arguments: Any) -> None:
        """A defect that one client's bytes or answers bring to light costs that client's connection."""
        try:
            act(*arguments)
        except Exception as error:
            self._traffic.errors[f"internal_{type(error).__name__}"] += 1
            self._close(connection)

    def _ready(self, connection: _Connection, event: int) -> None:
        if event & (select.EPOLLHUP | select.EPOLLERR):  # gone in both directions: nobody to answer
            self._close(connection)
            return
        if event & select.EPOLLOUT:
            self._flush(connection)
        if event & select.EPOLLIN:
            self._read(connection)

    def _read(self, connection: _Connection) -> None:
        intake = connection.intake
        target = intake.reader.target(self._scratch)
        try:
            received = connection.sock.recv_into(target)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if connection.lingering_since_ns:
            if not received:
                self._close(connection)
            return  # it was told why; what it still sends is of no interest
        if received:
            intake.feed(target, received, self._now_ns)
            if intake.backlog:
                self._blocked[connection.sock.fileno()] = connection
        else:
            intake.end(self._now_ns)
        self._settle(connection)

    def _complete(self, completions: list[Completion]) -> None:
        """Answer what the backend has finished, one ``send`` for each connection."""
        touched: dict[int, _Connection] = {}
        for completion in completions:
            conversation = completion.job.token[0].conversation
            connection: _Connection = conversation.owner
            touched[id(connection)] = connection
            self._guarded(connection, conversation.complete, completion)
        for connection in touched.values():
            self._guarded(connection, self._settle, connection)
        if completions and self._blocked:
            self._retry_blocked()

    def _retry_blocked(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for connection in blocked.values():
            self._guarded(connection, self._retry, connection)

    def _retry(self, connection: _Connection) -> None:
        connection.intake.retry(self._now_ns)
        if connection.intake.backlog:
            self._blocked[connection.sock.fileno()] = connection
        self._settle(connection)

    # ------------------------------------------------------------ answers

    def _settle(self, connection: _Connection) -> None:
        """Send what is to be sent, close what is finished, and listen for what matters next."""
        conversation = connection.conversation
        if conversation.out and not connection.unsent and not connection.closed:
            self._flush(connection)
        elif connection.closed or connection.at_ease:
            return
        elif connection.finished:
            self._finish(connection)
        else:
            self._update_interest(connection)

    def _flush(self, connection: _Connection) -> None:
        conversation = connection.conversation
        try:
            while connection.unsent or conversation.out:
                if not connection.unsent:
                    connection.unsent = conversation.take_out()
                    connection.unsent_since_ns = self._now_ns
                sent = connection.sock.send(connection.unsent)
                conversation.traffic.bytes_out += sent
                connection.unsent = (
                    memoryview(connection.unsent)[sent:] if sent < len(connection.unsent) else b""
                )
                connection.unsent_since_ns = self._now_ns
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)
            return
        if connection.at_ease:
            return
        if connection.finished:
            self._finish(connection)
        else:
            self._update_interest(connection)

    def _update_interest(self, connection: _Connection) -> None:
        conversation = connection.conversation
        waiting = len(connection.unsent)
        if waiting and conversation.out:
            waiting += sum(map(len, conversation.out))
        interest = select.EPOLLOUT if waiting else 0
        if waiting > self._options.high_water_bytes:
            conversation.traffic.over_high_water += bool(connection.interest & select.EPOLLIN)
        elif not (connection.intake.backlog or connection.intake.eof or conversation.ending):
            interest |= select.EPOLLIN
        if connection.lingering_since_ns:
            interest = select.EPOLLIN
        if interest != connection.interest:
            connection.interest = interest
            self._epoll.modify(connection.sock, interest)

    def _finish(self, connection: _Connection) -> None:
        """All is said. Closing with unread input would discard answers on the way (TCP resets), so
        say that no more comes and wait a moment for the client to hang up."""
        if connection.intake.eof:
            self._close(connection)
        elif not connection.lingering_since_ns:
            connection.lingering_since_ns = self._now_ns
            try:
                connection.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close(connection)
                return
            self._update_interest(connection)

    # ------------------------------------------------------------ coming and going

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE_UP):
            try:
                sock = self._door.accept()
            except OSError as error:
                self._traffic.errors[f"accept_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                # No file left: level-triggered, the listener would be ready again at once, for ever.
                self._epoll.modify(self._door, 0)
                self._paused_accepting = True
                return
            if sock is None:
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._connections) >= self._options.max_connections:
            self._traffic.errors["too_many_connections"] += 1
            self._door.turn_away(sock)
            return
        connection = _Connection(sock, self._shared, self._completions, self._scratch, self._now_ns)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock, select.EPOLLIN)
        self._accepted += 1
        self._peak = max(self._peak, len(self._connections))

    def _close(self, connection: _Connection) -> None:
        if connection.closed:
            return
        connection.closed = True
        fd = connection.sock.fileno()
        connection.conversation.abandon()
        self._traffic.merge(connection.conversation.traffic)
        connection.conversation.traffic = Traffic()
        connection.intake.backlog = []
        self._blocked.pop(fd, None)
        del self._connections[fd]
        connection.sock.close()  # closing removes it from the epoll set

    def _tick(self) -> None:
        """Look at every connection for what it owes. Once a second, so thousands cost a millisecond."""
        self._shared.retry()
        if self._blocked:
            self._retry_blocked()
        for connection in list(self._connections.values()):
            self._guarded(connection, self._check_timeouts, connection)
        if self._paused_accepting and not self._draining_since_ns:
            self._paused_accepting = False
            self._epoll.modify(self._door, select.EPOLLIN)

    def _check_timeouts(self, connection: _Connection) -> None:
        now, slow_ns = self._now_ns, self._options.slow_peer_timeout_s * 1e9
        if connection.lingering_since_ns:
            if now - connection.lingering_since_ns > _LINGER_S * 1e9:
                self._close(connection)
        elif connection.unsent and now - connection.unsent_since_ns > slow_ns:
            # It does not read, so there is no way to tell it.
            self._traffic.errors[ErrorCode.SLOW_PEER.name.lower()] += 1
            self._close(connection)
        elif error := connection.intake.overdue(now, self._options):
            connection.conversation.fail(error)
            self._settle(connection)

    def _begin_drain(self) -> None:
        os.eventfd_read(self._stop_fd)
        if self._draining_since_ns:
            return
        self._draining_since_ns = self._now_ns
        self._door.close()
        for connection in list(self._connections.values()):
            connection.conversation.drain()
            self._settle(connection)

    def _drained(self) -> bool:
        if not self._draining_since_ns:
            return False
        waited_s = (self._now_ns - self._draining_since_ns) * 1e-9
        return not self._connections or waited_s > self._options.drain_timeout_s

    def _close_all(self) -> None:
        self._door.close()
        for connection in list(self._connections.values()):
            if connection.conversation.sessions:
                connection.conversation.fail(WireError(ErrorCode.DRAINING, "the server is going down"))
                self._settle(connection)
            self._close(connection)
        self._epoll.close()
