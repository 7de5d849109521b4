"""A thread for each connection: it reads, hands the work in, waits for the answers and sends them.

The straightforward way, and the baseline of the io axis. A client is not read while its own
answers are outstanding, which is this variant's back-pressure.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.protocols import Evidence
from harness.protocols.options import Count
from harness.protocols.wire import ErrorCode, Frame, FrameReader, FramingError, WireError
from variants.io.conversation import Conversation, Shared
from variants.io.service import Service
from variants.io.types import IoOptions, Switches, Traffic
from variants.topology.types import Backend, Busy, Completion

_SCRATCH_BYTES = 16 << 10
_BUSY_WAIT_S = 0.002
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Options(IoOptions):
    thread_stack_bytes: Count = 0
    """Of each connection's thread; 0: the system's default."""


def build(backend: Backend, options: Options) -> ThreadServer:
    return ThreadServer(backend, options)


class ThreadServer(Service):
    """See ``variants.io.types.Server``."""

    def __init__(self, backend: Backend, options: Options) -> None:
        super().__init__(backend, options)
        self._stack_bytes = options.thread_stack_bytes
        self._lock = threading.Lock()
        self._clients: set[_Client] = set()
        self._draining = False
        self._peak_threads = 0

    def serve(self) -> None:
        self._door.bind()
        self._started_switches = Switches.now()
        with _stack_size(self._stack_bytes):
            try:
                self._accept_until_stopped()
            finally:
                self._door.close()
                self._drain()

    def evidence(self) -> Evidence:
        own = {"process_threads": self._peak_threads}  # at their most; by now clients may have gone
        with self._lock:
            living = [client.conversation for client in self._clients]
            return self._evidence("threads", self._peak, 1, living, **own)

    # ------------------------------------------------------------ coming and going

    def _accept_until_stopped(self) -> None:
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(1000)]
            if self._stop_fd in ready:
                return
            self._shared.retry()
            try:
                while (sock := self._door.accept()) is not None:
                    self._admit(sock)
            except OSError as error:  # no file left: some client has to go first
                self._count(f"accept_{error.strerror}")
                time.sleep(0.1)

    def _admit(self, sock: socket.socket) -> None:
        client = _Client(self, sock, self._shared, self._options)
        with self._lock:
            full = len(self._clients) >= self._options.max_connections
            if not full:
                self._clients.add(client)
                self._accepted += 1
                self._peak = max(self._peak, len(self._clients))
        if full or not client.start():
            self._count(ErrorCode.TOO_MANY_CONNECTIONS.name.lower())
            with self._lock:
                self._clients.discard(client)
            self._door.turn_away(sock)
        self._peak_threads = max(self._peak_threads, threading.active_count())

    def gone(self, client: _Client) -> None:
        """A client's thread has come to its end."""
        with self._lock:
            self._clients.discard(client)
            self._traffic.merge(client.conversation.traffic)
            client.conversation.traffic = Traffic()

    @property
    def draining(self) -> bool:
        return self._draining

    def _count(self, error: str) -> None:
        with self._lock:
            self._traffic.errors[error] += 1

    def _drain(self) -> None:
        self._draining = True
        deadline = time.monotonic() + self._options.drain_timeout_s
        for client in self._snapshot():
            client.stop_if_unoccupied()
        while self._snapshot() and time.monotonic() < deadline:
            time.sleep(0.01)
        for client in self._snapshot():
            client.hang_up()
        for client in self._snapshot():
            client.join(_LINGER_S)

    def _snapshot(self) -> list[_Client]:
        with self._lock:
            return list(self._clients)


class _Client:
    """One connection and its thread."""

    def __init__(self, server: ThreadServer, sock: socket.socket, shared: Shared, options: IoOptions) -> None:
        self._server = server
        self._sock = sock
        self._options = options
        self._reader = FrameReader(shared.limits)
        self._completions: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self.conversation = Conversation(shared, self._completions.put, self)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._owes_since_s = 0.0

    def start(self) -> bool:
        """False where the system has no thread left."""
        self._sock.setblocking(True)
        _set_timeouts(self._sock, min(self._options.idle_timeout_s, self._options.slow_peer_timeout_s) / 4)
        try:
            self._thread.start()
        except RuntimeError:
            return False
        return True

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def stop_if_unoccupied(self) -> None:
        """Wake the thread from a read when no session of its client is under way."""
        if not self.conversation.sessions:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._converse()
        except OSError:
            pass  # the client is gone: nobody to answer
        except Exception as error:  # a defect costs this client's connection, not the server
            self.conversation.traffic.errors[f"internal_{type(error).__name__}"] += 1
        finally:
            self.conversation.abandon()
            self._sock.close()
            self._server.gone(self)

    def _converse(self) -> None:
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        conversation, reader = self.conversation, self._reader
        last_read_s = time.monotonic()
        while not conversation.ending:
            target = reader.target(scratch)
            received = self._receive(target)
            now_s = time.monotonic()
            if self._server.draining:
                conversation.drain()
            if received == 0:
                conversation.end_of_input(reader.mid_frame)
                break
            if received is None:
                self._check_timeouts(now_s, last_read_s)
            else:
                last_read_s = now_s
                frames = reader.feed(target, received)
                self._note_debt(bool(frames), now_s)
                self._serve(frames)
                if reader.error is not None:
                    conversation.fail(reader.error)
            self._flush()
            if conversation.draining and not conversation.sessions:
                break
        self._flush()
        self._linger(scratch)

    def _receive(self, target: memoryview) -> int | None:
        """Bytes received, 0 at the end of input, None when the client was silent for a while."""
        try:
            received = self._sock.recv_into(target)
        except BlockingIOError:
            return None
        self.conversation.traffic.bytes_in += received
        return received

    def _serve(self, frames: Sequence[Frame]) -> None:
        conversation = self.conversation
        for frame in frames:
            while not self._try(frame):
                self._wait_for_room()
        while conversation.pending:
            conversation.complete(self._completions.get())

    def _try(self, frame: Frame) -> bool:
        try:
            self.conversation.handle(frame)
        except Busy:
            return False
        return True

    def _wait_for_room(self) -> None:
        """The backend is full: one of our own completions means room; without any, look again soon."""
        with contextlib.suppress(queue.Empty):
            self.conversation.complete(self._completions.get(timeout=_BUSY_WAIT_S))

    def _note_debt(self, completed: bool, now_s: float) -> None:
        if not self._reader.mid_frame:
            self._owes_since_s = 0.0
        elif not self._owes_since_s or completed:
            self._owes_since_s = now_s
        elif now_s - self._owes_since_s > self._options.slow_peer_timeout_s:
            self._fail_slow()

    def _check_timeouts(self, now_s: float, last_read_s: float) -> None:
        if self._owes_since_s and now_s - self._owes_since_s > self._options.slow_peer_timeout_s:
            self._fail_slow()
        elif now_s - last_read_s > self._options.idle_timeout_s:
            message = f"nothing was sent for {self._options.idle_timeout_s:g} s"
            self.conversation.fail(WireError(ErrorCode.IDLE, message))

    def _fail_slow(self) -> None:
        message = f"a frame took longer than {self._options.slow_peer_timeout_s:g} s to arrive"
        self.conversation.fail(FramingError(ErrorCode.SLOW_PEER, message))

    def _flush(self) -> None:
        """Send every answer, waiting for the client to read. Raises ``OSError`` when it does not."""
        if not self.conversation.out:
            return
        unsent = memoryview(self.conversation.take_out())
        deadline_s = time.monotonic() + self._options.slow_peer_timeout_s
        while unsent:
            with contextlib.suppress(BlockingIOError):
                sent = self._sock.send(unsent)
                self.conversation.traffic.bytes_out += sent
                unsent = unsent[sent:]
            if unsent and time.monotonic() > deadline_s:
                self.conversation.traffic.errors[ErrorCode.SLOW_PEER.name.lower()] += 1
                raise TimeoutError("the client does not read its answers")

    def _linger(self, scratch: memoryview) -> None:
        """Say that no more comes and wait a moment for the client to hang up: closing with unread
        input would discard answers on their way (TCP resets)."""
        self._sock.shutdown(socket.SHUT_WR)
        _set_timeouts(self._sock, _LINGER_S / 4)
        deadline_s = time.monotonic() + _LINGER_S
        while time.monotonic() < deadline_s and self._receive(scratch) != 0:
            pass


def _set_timeouts(sock: socket.socket, seconds: float) -> None:
    """The kernel's own timeouts: Python's would add a ``poll`` to every ``recv`` and ``send``."""
    microseconds = max(1000, round(seconds * 1e6))
    timeval = struct.pack("@ll", microseconds // 1_000_000, microseconds % 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


@contextlib.contextmanager
def _stack_size(size: int) -> Iterator[None]:
    """Threads started inside have stacks of ``size`` bytes; 0 leaves the system's default."""
    if not size:
        yield
        return
    before = threading.stack_size(size)
    try:
        yield
    finally:
        threading.stack_size(before)
