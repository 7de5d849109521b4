"""Live streams to a server that speaks OpenAI's realtime transcription events, on an absolute schedule.

Chunks are due when their last sample has been spoken and are encoded before the first one is. The protocol
acknowledges no chunk: what is measured of a stream is from the end of its speech, which a commit follows, to
its ``completed`` event, and when its first text came.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from harness.config.schema import TargetConfig
from harness.errors import HarnessError
from harness.protocols.children import when_closed
from harness.protocols.server import ServerEvidence
from harness.protocols.sockets import Address, raise_open_files
from harness.spans import now_ns
from harness.target import address
from harness.target.g711 import a_law, mu_law
from harness.workload.client import INTERRUPTED, StreamRecords, retracted_words
from harness.workload.streaming import Share, StreamingResult

PATH = "/realtime?intent=transcription"
_TEXT = "conversation.item.input_audio_transcription"
_SPARE_FILES = 64
_MAX_EVENT_BYTES = 4 << 20


@dataclass(frozen=True)
class Sound:
    """How samples travel: the protocol's name of the format, its rate in Hz, and 16-bit samples to bytes."""

    kind: str
    rate: int
    encode: Callable[[npt.NDArray[np.int16]], bytes]


def _as_it_is(samples: npt.NDArray[np.int16]) -> bytes:
    return samples.tobytes()


_SOUNDS = {
    "pcm16": Sound("audio/pcm", 24_000, _as_it_is),
    "g711_ulaw": Sound("audio/pcmu", 8000, mu_law),
    "g711_alaw": Sound("audio/pcma", 8000, a_law),
}


@dataclass(frozen=True)
class RealtimeTarget:
    """A ``harness.workload.streaming.Wire`` to a server at an address. No chunk is acknowledged there."""

    target: TargetConfig
    sound: Sound
    main: str = "harness.target.realtime:run_client"

    def script(self, share: Share) -> RealtimeScript:
        return RealtimeScript(self.target, self.sound, share)

    def evidence(self, result: StreamingResult) -> ServerEvidence:
        seen = {
            "host": address.stated_host(self.target),
            "model": self.target.model,
            "codec": self.target.codec,
        }
        answered = int(np.sum(result.records.final_ns > 0))
        return ServerEvidence({"target": {**seen, "answers": answered, "versions": {}, "retries": 0}}, ())


def foreign_plan() -> dict[str, Any]:
    """Of a ``StreamingPlan``, what holds for a foreign server: recordings are spoken once, because they are
    held to their transcripts."""
    return {"acknowledged": False, "encoding": "s16le", "whole": True}


def foreign_server(target: TargetConfig) -> RealtimeTarget:
    return RealtimeTarget(target, _SOUNDS[target.codec])


def own_server(at: Address, sample_rate: int) -> RealtimeTarget:
    """Our own, behind its HTTP door: it takes samples at the model's rate as they are."""
    url = f"ws://{at}"
    return RealtimeTarget(TargetConfig(name="realtime", url=url), Sound("audio/pcm", sample_rate, _as_it_is))


@dataclass(frozen=True)
class RealtimeScript:
    target: TargetConfig
    sound: Sound
    share: Share


@dataclass(slots=True)
class _Stream:
    """One conversation, and what was seen of it. Instants are nanoseconds of the monotonic clock."""

    messages: Sequence[str]
    due_ns: npt.NDArray[np.int64]
    """From the stream's start."""
    offset_ns: int
    connection: ClientConnection | None = None
    start_ns: int = 0
    sent_ns: list[int] = field(default_factory=list)
    first_text_ns: int = 0
    final_ns: int = 0
    shown: str = ""
    retracted: int = 0
    text: str = ""
    error: str = ""


def run_client(script: RealtimeScript, control: Connection) -> None:
    """The process's main: connect, report, wait for the start time, stream, send the records. A second word
    from the parent ends the streams where they are."""
    when_closed(control, lambda: None, grace_s=0.0)
    try:
        control.send(asyncio.run(_Client(script, control).run()))
    except OSError as error:
        raise HarnessError(f"a client process failed: {error}") from error


class _Client:
    """The streams of one process, on one loop."""

    def __init__(self, script: RealtimeScript, control: Connection) -> None:
        self._target = script.target
        self._sound = script.sound
        self._plan = script.share.plan
        self._control = control
        self._target = script.target
        self._key = address.key(script.target)
        self._refused = 0
        said = [_messages(recording, script) for recording in script.share.recordings]
        share = script.share
        self._streams = [
            _Stream(*said[index], offset_ns=round(offset_s * 1e9))
            for index, offset_s in zip(share.assigned, share.offsets_s, strict=True)
        ]

    async def run(self) -> StreamRecords:
        count = len(self._streams)
        raise_open_files(count + _SPARE_FILES, f"{count} client connections")
        await asyncio.gather(*(self._connect(stream) for stream in self._streams))
        self._control.send("connected")
        loop = asyncio.get_running_loop()
        start_ns: int = await loop.run_in_executor(None, self._control.recv)
        gc.freeze()
        gc.disable()  # the generator's own collections would look like lag
        cpu_before = time.process_time()
        speaking = asyncio.gather(*(self._speak(stream, start_ns) for stream in self._streams))
        loop.add_reader(self._control.fileno(), speaking.cancel)
        try:
            await speaking
        except asyncio.CancelledError:
            for stream in self._streams:
                stream.error = stream.error or ("" if stream.final_ns else INTERRUPTED)
        finally:
            loop.remove_reader(self._control.fileno())
        return self._records(time.process_time() - cpu_before)

    async def _connect(self, stream: _Stream) -> None:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            async with asyncio.timeout(self._target.timeout_s):
                stream.connection = await connect(
                    address.base_url(self._target) + PATH,
                    additional_headers=headers,
                    max_size=_MAX_EVENT_BYTES,
                    compression=None,
                    proxy=None,
                    open_timeout=None,
                    close_timeout=1.0,
                )
                await stream.connection.send(json.dumps(_configuration(self._target, self._sound)))
        except (OSError, TimeoutError, WebSocketException) as error:
            stream.error = self._why("it could not connect", error)

    async def _speak(self, stream: _Stream, start_ns: int) -> None:
        """One stream from its first chunk to its final text, or to what went wrong: its row's reason."""
        stream.start_ns = start_ns + stream.offset_ns
        connection = stream.connection
        if connection is None:
            return
        listening = asyncio.ensure_future(self._listen(stream, connection))
        try:
            await self._send(stream, connection, listening)
            async with asyncio.timeout(self._plan.final_timeout_s):
                await asyncio.shield(listening)
        except TimeoutError:
            stream.error = f"no final text within {self._plan.final_timeout_s:g} s"
        except (OSError, WebSocketException) as error:
            stream.error = stream.error or self._why("the connection broke", error)
        finally:
            listening.cancel()
            connection.transport.abort()  # nothing of the closing is measured, and some never close

    async def _send(
        self, stream: _Stream, connection: ClientConnection, listening: asyncio.Future[None]
    ) -> None:
        held_up = False
        for message, offset_ns in zip(stream.messages, stream.due_ns, strict=True):
            due_ns = stream.start_ns + int(offset_ns)
            held_up = held_up and now_ns() > due_ns
            while (left_ns := due_ns - now_ns()) > 0:
                await asyncio.sleep(left_ns * 1e-9)
            if listening.done():
                return
            # What the server holds up, because it does not read, is no lag of ours.
            stream.sent_ns.append(due_ns if held_up else now_ns())
            self._refused += held_up
            await self._within(connection.send(message))
            held_up = connection.transport.get_write_buffer_size() > 0
        await self._within(connection.send('{"type": "input_audio_buffer.commit"}'))

    async def _within(self, sending: Any) -> None:
        """A server that does not read holds its stream up, and in the end has failed it."""
        async with asyncio.timeout(self._plan.final_timeout_s):
            await sending

    async def _listen(self, stream: _Stream, connection: ClientConnection) -> None:
        """Until the final text, or an error."""
        async for message in connection:
            at_ns = now_ns()
            kind, event = _event(message)
            if kind == f"{_TEXT}.delta" and event.get("delta"):
                stream.first_text_ns = stream.first_text_ns or at_ns
                stream.shown += str(event["delta"])
            elif kind == f"{_TEXT}.completed":
                stream.final_ns, stream.text = at_ns, str(event.get("transcript", ""))
                stream.retracted = retracted_words(stream.shown, stream.text)
                return
            elif kind in ("error", f"{_TEXT}.failed"):
                stream.error = self._clean(f"the server said: {json.dumps(event.get('error'))[:200]}")
                return
            elif kind is None:
                stream.error = self._clean(f"what came is no event: {message[:100]!r}")
                return
        stream.error = "the server closed the connection before the final text"

    def _why(self, what: str, error: BaseException) -> str:
        return self._clean(f"{what}: {error or type(error).__name__}")

    def _clean(self, message: str) -> str:
        return address.without_secrets(message, self._target, self._key)

    def _records(self, cpu_s: float) -> StreamRecords:
        streams = self._streams
        width = max((len(stream.due_ns) for stream in streams), default=0)
        scheduled = np.zeros((len(streams), width), np.int64)
        sent, answered = np.zeros_like(scheduled), np.zeros_like(scheduled)
        for row, stream in enumerate(streams):
            count = len(stream.due_ns)
            scheduled[row, :count] = stream.due_ns + stream.start_ns
            sent[row, : len(stream.sent_ns)] = stream.sent_ns
            answered[row, count - 1] = stream.final_ns
        return StreamRecords.of(streams, (scheduled, sent, answered), self._refused, cpu_s)


def _configuration(target: TargetConfig, sound: Sound) -> dict[str, Any]:
    transcription = {"model": target.model} | ({"language": target.language} if target.language else {})
    heard = {
        "format": {"type": sound.kind, "rate": sound.rate},
        "transcription": transcription,
        "turn_detection": None,
    }
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}}


def _messages(recording: npt.NDArray[Any], script: RealtimeScript) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The events that carry a recording (the wire's 16-bit samples ``[n]``), and when each is due."""
    plan, rate = script.share.plan, script.sound.rate
    if rate != plan.sample_rate:
        samples = soxr.resample(recording.astype(np.float32) / 32768, plan.sample_rate, rate)
        recording = np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")
    chunk = max(1, round(plan.chunk_s * rate))
    starts = range(0, len(recording), chunk)
    pieces = (script.sound.encode(recording[start : start + chunk]) for start in starts)
    events = [
        json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()})
        for piece in pieces
    ]
    ends = np.minimum(np.array(starts, np.int64) + chunk, len(recording))
    return events, np.rint(ends / (rate * plan.speed) * 1e9).astype(np.int64)


def _event(message: str | bytes) -> tuple[str | None, dict[str, Any]]:
    """The kind of an event, None for what is none."""
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        return None, {}
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None, {}
    return event["type"], event
