"""Live sound over a websocket: OpenAI's realtime transcription events in front of the engine's streams.

What a client appends until it commits is one item, and one stream of the engine. Deltas come as the engine
understands more; ``completed`` is the whole text. There is no detection of turns: clients commit.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from harness.protocols.wire import ErrorCode
from variants.io.conversation import Shared
from variants.io.http_jobs import Jobs
from variants.io.http_sound import Ear, Format, SoundError
from variants.topology.types import Busy, CommitStream, Completion, Job, OpenStream, PushAudio

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_AGAIN_S = 0.005
"""Until a backend that was full is asked again."""
_UNSENT = 256
"""Events that may wait for a client to take them."""
_CLOSE_TRY_AGAIN = 1013
_CLOSE_POLICY = 1008


@dataclass(frozen=True, slots=True)
class Patience:
    idle_s: float
    """For the next event."""
    slow_s: float
    """For a client to take an event."""


class _Over(Exception):
    """The conversation ends with this close code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Refused(Exception):
    """An event that is not followed; the conversation goes on."""


@dataclass(slots=True)
class _Item:
    """What was appended since the last commit."""

    item_id: str
    stream_id: int
    ear: Ear
    bytes_taken: int = 0
    text: str = ""


class Conversation:
    """One websocket, from its connection to its end."""

    def __init__(self, jobs: Jobs, shared: Shared, patience: Patience, receive: Receive, send: Send) -> None:
        self._jobs = jobs
        self._shared = shared
        self._patience = patience
        self._receive = receive
        self._send_message = send
        self._format = Format()
        self._item: _Item | None = None
        self._items = itertools.count(1)
        self._events = itertools.count(1)
        self._out: asyncio.Queue[Mapping[str, Any] | _Over] = asyncio.Queue()
        self._room = asyncio.Semaphore(shared.max_jobs)
        self._pending = 0  # jobs that the backend has not completed
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[None]]] = {
            "session.update": self._configure,
            "transcription_session.update": self._configure,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    async def run(self) -> None:
        """Until the client leaves, or is told to. What it left unfinished is forgotten."""
        await self._receive()  # websocket.connect
        await self._send_message({"type": "websocket.accept"})
        self._say("session.created", session=self._session())
        writing = asyncio.ensure_future(self._write())
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                await writing
        finally:
            reading.cancel()
            writing.cancel()
            self._forget()
        for task in (reading, writing):
            if task.done() and not task.cancelled():
                task.result()

    # ------------------------------------------------------------ in

    async def _read(self) -> None:
        try:
            while (event := await self._next()) is not None:
                await self._follow(event)
                while self._out.qsize() > _UNSENT:  # who does not read is not read
                    await asyncio.sleep(_AGAIN_S)
        except _Over as over:
            self._error(str(over))
            self._out.put_nowait(over)
        else:
            self._out.put_nowait(_Over(1000, ""))

    async def _next(self) -> str | None:
        """The next event's text; None where the client has left. One that waits for us is not idle."""
        while True:
            try:
                async with asyncio.timeout(self._patience.idle_s):
                    message = await self._receive()
                break
            except TimeoutError:
                if not self._pending:
                    why = f"nothing was sent for {self._patience.idle_s:g} s"
                    raise _Over(_CLOSE_POLICY, why) from None
        if message["type"] == "websocket.disconnect":
            return None
        return message.get("text") or ""

    async def _follow(self, text: str) -> None:
        try:
            event = json.loads(text)
            handler = self._handlers[event["type"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            known = ", ".join(self._handlers)
            self._error(f"{text[:60]!r} is no event of this protocol; there are {known}")
            return
        try:
            await handler(event)
        except (_Refused, SoundError) as error:
            self._error(str(error), event.get("event_id"))

    async def _configure(self, event: Mapping[str, Any]) -> None:
        session = event.get("session")
        if not isinstance(session, Mapping):
            raise _Refused("session.update has no session")
        said = _input(session).get("format", session.get("input_audio_format"))
        if said is not None:
            if self._item is not None:
                raise _Refused("the format cannot change before what was appended is committed")
            self._format = Format.of(said)
        self._say("session.updated", session=self._session())

    async def _append(self, event: Mapping[str, Any]) -> None:
        item = self._item or await self._open()
        audio = event.get("audio")
        item.bytes_taken += len(audio) if isinstance(audio, str) else 0
        if item.bytes_taken > self._shared.limits.max_session_bytes:
            self._forget()
            limit = self._shared.limits.max_session_bytes
            raise _Refused(f"an item has at most {limit} bytes of base64; what was appended is forgotten")
        samples = item.ear.hear(audio)
        if len(samples):
            heard = await self._submit(lambda token: PushAudio(item.stream_id, samples, token))
            heard.add_done_callback(lambda done: self._heard(item, done))

    async def _open(self) -> _Item:
        stream_id = next(self._shared.stream_ids)
        opened = await self._submit(lambda token: OpenStream(stream_id, token))
        opened.add_done_callback(self._opened)
        self._item = _Item(
            f"item_{next(self._items)}", stream_id, Ear(self._format, self._shared.sample_rate)
        )
        return self._item

    def _opened(self, done: asyncio.Future[Completion]) -> None:
        """An engine that has no room for a stream is asked again with another connection."""
        if not done.cancelled() and (why := done.result().error) is not None:
            self._out.put_nowait(_Over(_CLOSE_TRY_AGAIN, why))

    async def _commit(self, _event: Mapping[str, Any]) -> None:
        item = self._item
        if item is None:
            raise _Refused("nothing was appended: there is nothing to commit")
        rest = item.ear.end()
        if len(rest):
            await self._submit(lambda token: PushAudio(item.stream_id, rest, token))
        self._item = None
        self._say("input_audio_buffer.committed", item_id=item.item_id, previous_item_id=None)
        final = await self._submit(lambda token: CommitStream(item.stream_id, token))
        final.add_done_callback(lambda done: self._completed(item, done))

    async def _clear(self, _event: Mapping[str, Any]) -> None:
        self._forget()
        self._say("input_audio_buffer.cleared")

    def _forget(self) -> None:
        item, self._item = self._item, None
        if item is not None:
            self._shared.abandon(item.stream_id)

    # ------------------------------------------------------------ to and from the engine

    async def _submit(self, job: Callable[[Any], Job]) -> asyncio.Future[Completion]:
        """As soon as the backend, and this client's share of it, has room; meanwhile it is not read."""
        await self._room.acquire()
        while True:
            try:
                answered = self._jobs.submit(job)
                break
            except Busy:
                await asyncio.sleep(_AGAIN_S)
            except Exception as error:  # a backend that is down must not look like a defect of the door
                raise _Over(_CLOSE_TRY_AGAIN, f"cannot serve: {error}") from error
        self._pending += 1
        answered.add_done_callback(self._done)
        return answered

    def _done(self, _answered: object) -> None:
        self._pending -= 1
        self._room.release()

    def _heard(self, item: _Item, done: asyncio.Future[Completion]) -> None:
        if done.cancelled():
            return
        completion = done.result()
        if completion.error is not None:
            self._error(completion.error)
        elif completion.text is not None and completion.text != item.text:
            self._say(
                f"{_TRANSCRIPTION}.delta",
                item_id=item.item_id,
                content_index=0,
                delta=_added(item.text, completion.text),
            )
            item.text = completion.text

    def _completed(self, item: _Item, done: asyncio.Future[Completion]) -> None:
        if done.cancelled():
            return
        completion = done.result()
        where = {"item_id": item.item_id, "content_index": 0}
        if completion.reply is None or completion.reply.transcript is None:
            message = completion.error or ErrorCode.FAILED.name.lower()
            self._say(f"{_TRANSCRIPTION}.failed", **where, error={"type": "server_error", "message": message})
        else:
            self._say(f"{_TRANSCRIPTION}.completed", **where, transcript=completion.reply.transcript.text)

    # ------------------------------------------------------------ out

    async def _write(self) -> None:
        while not isinstance(event := await self._out.get(), _Over):
            await self._tell({"type": "websocket.send", "text": json.dumps(event)})
        await self._tell({"type": "websocket.close", "code": event.code, "reason": str(event)[:100]})

    async def _tell(self, message: MutableMapping[str, Any]) -> None:
        """Raises ``TimeoutError`` for a client that does not take it, ``OSError`` for one that is gone."""
        try:
            async with asyncio.timeout(self._patience.slow_s):
                await self._send_message(message)
        except RuntimeError as error:  # the server has hung up on a client that broke the protocol
            raise ConnectionResetError(str(error)) from error

    def _say(self, kind: str, **content: Any) -> None:
        self._out.put_nowait({"type": kind, "event_id": f"event_{next(self._events)}", **content})

    def _error(self, message: str, of: Any = None) -> None:
        error = {"type": "invalid_request_error", "code": None, "message": message, "event_id": of}
        self._say("error", error=error)

    def _session(self) -> Mapping[str, Any]:
        form = {"type": self._format.kind, "rate": self._format.rate}
        return {
            "type": "transcription",
            "audio": {"input": {"format": form, "turn_detection": None, "transcription": {}}},
        }


def _input(session: Mapping[str, Any]) -> Mapping[str, Any]:
    audio = session.get("audio")
    found = audio.get("input") if isinstance(audio, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _added(before: str, after: str) -> str:
    """What is new in ``after``. Where it took something back, ``completed`` has the last word."""
    if after.startswith(before):
        return after[len(before) :]
    common = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    return after[common:]
