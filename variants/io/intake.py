"""What one client sends, on its way into its conversation, for servers that never wait for it.

Frames that the backend has no room for wait here, in order; what the client owes is timed. How
bytes arrive and leave is the server's own affair.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.protocols.wire import ErrorCode, Frame, FrameReader, FramingError, WireError
from variants.io.conversation import Conversation
from variants.io.types import IoOptions
from variants.topology.types import Busy


class Intake:
    """One client's input. Instants are nanoseconds of the monotonic clock."""

    __slots__ = ("_scratch", "backlog", "conversation", "eof", "last_read_ns", "owes_since_ns", "reader")

    def __init__(
        self, conversation: Conversation, reader: FrameReader, scratch: memoryview, at_ns: int
    ) -> None:
        """``scratch`` is the buffer that connections share: what stays longer than a read is copied."""
        self.conversation = conversation
        self.reader = reader
        self._scratch = scratch
        self.backlog: list[Frame] = []
        """Frames that wait for room in the backend; while there are any, the client is not to be read."""
        self.eof = False
        self.last_read_ns = at_ns
        self.owes_since_ns = 0  # when the frame that is still incomplete began

    def feed(self, target: memoryview, received: int, at_ns: int) -> None:
        """``received`` bytes came into ``target``, which ``reader.target`` chose."""
        self.last_read_ns = at_ns
        self.conversation.traffic.bytes_in += received
        self._take(self.reader.feed(target, received), at_ns)

    def end(self, at_ns: int) -> None:
        """The client will send no more; it may still read (a half-closed connection)."""
        self.eof = True
        self.last_read_ns = at_ns
        if not self.backlog:
            self.conversation.end_of_input(self.reader.mid_frame)

    def retry(self, at_ns: int) -> None:
        """There may be room for what waits."""
        frames, self.backlog = self.backlog, []
        self._take(frames, at_ns)
        if self.eof and not self.backlog:
            self.conversation.end_of_input(self.reader.mid_frame)

    @property
    def concluded(self) -> bool:
        """Nothing is left to be said to this client but what waits to be sent."""
        conversation = self.conversation
        if conversation.ending:
            return True
        if conversation.draining and not conversation.sessions and not self.backlog:
            return True
        return self.eof and not self.backlog and conversation.waiting_for_client

    def overdue(self, at_ns: int, options: IoOptions) -> WireError | None:
        """What to tell a client that took too long, over a frame or with sending anything at all."""
        owed_ns = at_ns - self.owes_since_ns if self.owes_since_ns and not self.backlog else 0
        if owed_ns > options.slow_peer_timeout_s * 1e9:
            message = f"a frame took longer than {options.slow_peer_timeout_s:g} s to arrive"
            return FramingError(ErrorCode.SLOW_PEER, message)
        waits_for_us = self.backlog or not self.conversation.waiting_for_client
        if at_ns - self.last_read_ns > options.idle_timeout_s * 1e9 and not waits_for_us:
            return WireError(ErrorCode.IDLE, f"nothing was sent for {options.idle_timeout_s:g} s")
        return None

    def _take(self, frames: Sequence[Frame], at_ns: int) -> None:
        """Hand frames to the conversation; from the first that the backend has no room for, they wait."""
        for index, frame in enumerate(frames):
            try:
                self.conversation.handle(frame)
            except Busy:
                self.backlog = [self._kept(waiting) for waiting in frames[index:]]
                break
        reader = self.reader
        if reader.error is not None and not self.backlog:
            self.conversation.fail(reader.error)
        if not reader.mid_frame:
            self.owes_since_ns = 0
        elif not self.owes_since_ns or frames:
            self.owes_since_ns = at_ns

    def _kept(self, frame: Frame) -> Frame:
        """The shared buffer is about to be used again: what waits has to own its bytes."""
        if frame.payload.obj is not self._scratch.obj:
            return frame
        return frame._replace(payload=memoryview(bytes(frame.payload)))
