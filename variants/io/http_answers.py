"""What a client is told over HTTP: transcripts in the shapes of OpenAI's API, errors in its words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.protocols import Reply
from harness.spans import Span

Headers = tuple[tuple[str, str], ...]
_KINDS = {429: "rate_limit_error", 503: "service_unavailable_error", 500: "server_error"}


class Refused(Exception):
    """A request that is not served: an HTTP status, why, and when to come again."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: Headers = ()


def as_json(value: Mapping[str, Any], status: int = 200, headers: Headers = ()) -> Answer:
    return Answer(status, "application/json", json.dumps(value).encode(), headers)


def as_text(text: str, status: int = 200) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode())


def refusal(refused: Refused) -> Answer:
    """The error as OpenAI's API words it."""
    kind = _KINDS.get(refused.status, "invalid_request_error")
    error = {"message": str(refused), "type": kind, "param": None, "code": None}
    again = () if refused.retry_after_s is None else (("retry-after", str(refused.retry_after_s)),)
    return as_json({"error": error}, refused.status, again)


def transcript(reply: Reply, form: str, streamed: bool) -> Answer:
    """``form`` is one of ``FORMATS``; ``streamed``: as server-sent events."""
    text = reply.transcript.text if reply.transcript else ""
    timing = (("server-timing", server_timing(reply.spans)),)
    if streamed:
        return Answer(200, "text/event-stream", _events(text, reply), timing)
    content_type, write = FORMATS[form]
    return Answer(200, content_type, write(text, reply), timing)


def server_timing(spans: Iterable[Span]) -> str:
    """A header's value (W3C Server Timing): milliseconds of each span name, in the order of its first."""
    totals: dict[str, float] = {}
    for span in spans:
        totals[span.name] = totals.get(span.name, 0.0) + span.duration_s
    return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in totals.items())


def _text(text: str, _reply: Reply) -> bytes:
    return text.encode()


def _json(text: str, reply: Reply) -> bytes:
    return json.dumps({"text": text, "usage": _usage(reply)}).encode()


def _verbose(text: str, reply: Reply) -> bytes:
    """OpenAI's fields, and what only this service can say: its spans, in nanoseconds of the host's
    monotonic clock, and the batch that the request was in. Probabilities that the model does not have
    are left out of the segments."""
    return json.dumps(
        {
            "task": "transcribe",
            "language": "",
            "duration": reply.speech_s,
            "text": text,
            "segments": _segments(reply),
            "usage": _usage(reply),
            "spans": reply.spans,
            "segments_heard": reply.segments,
            "batch_id": reply.batch_id,
            "batch_size": reply.batch_size,
        }
    ).encode()


def _segments(reply: Reply) -> list[Mapping[str, Any]]:
    """``seek`` is in frames of 10 ms; greedy decoding is at temperature 0."""
    if reply.transcript is None:
        return []
    each = zip(reply.transcript.segments, reply.transcript.hypotheses, strict=False)
    return [
        {
            "id": number,
            "seek": round(start_s * 100),
            "start": round(start_s, 3),
            "end": round(end_s, 3),
            "text": text,
            "tokens": hypothesis.tokens,
            "temperature": 0.0,
        }
        for number, ((start_s, end_s, text), hypothesis) in enumerate(each)
    ]


def _events(text: str, reply: Reply) -> bytes:
    events: tuple[Mapping[str, Any], ...] = (
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text, "usage": _usage(reply)},
    )
    return (
        b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
        + b"data: [DONE]\n\n"
    )


def _usage(reply: Reply) -> Mapping[str, Any]:
    return {"type": "duration", "seconds": round(reply.speech_s, 3)}


FORMATS: Mapping[str, tuple[str, Callable[[str, Reply], bytes]]] = {
    "json": ("application/json", _json),
    "text": ("text/plain; charset=utf-8", _text),
    "verbose_json": ("application/json", _verbose),
}
