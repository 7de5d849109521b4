"""OpenAI's transcription endpoint as its documentation describes it: what is sent and what comes back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import RequestError
from harness.target.exchange import Exchange, TryAgainError

PATH = "/audio/transcriptions"
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_QUOTED = 200
"""Characters of a server's answer that an error repeats."""
_MAGIC = (
    (0, b"RIFF", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "webm"),
    (4, b"ftyp", "m4a"),
    (0, b"ID3", "mp3"),
    (0, b"\xff", "mp3"),
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What an answer says. ``extra`` holds the fields beside the text, for whoever knows them."""

    text: str
    extra: Mapping[str, Any]

    @property
    def segments(self) -> int:
        """As many as the answer tells apart; one where it tells none."""
        told = self.extra.get("segments")
        return max(1, len(told)) if isinstance(told, list) else 1


def encode_form(payload: bytes, fields: Mapping[str, str]) -> tuple[str, bytes]:
    """The content type and the body that upload ``payload`` as ``file`` (RFC 7578)."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name(payload)}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body = b"".join([*parts, head, payload, f"\r\n--{boundary}--\r\n".encode()])
    return f"multipart/form-data; boundary={boundary}", body


def file_name(payload: bytes) -> str:
    """Servers tell the container by the name's ending."""
    kinds = (kind for start, magic, kind in _MAGIC if payload[start : start + len(magic)] == magic)
    return f"recording.{next(kinds, 'wav')}"


def read_answer(exchange: Exchange) -> Heard:
    """The transcript, in whichever shape the server chose. Raises ``RequestError`` for an answer that has
    none, an error among them."""
    if exchange.status in _TRANSIENT:
        raise TryAgainError(_refused(exchange), _retry_after_s(exchange))
    if exchange.status != 200:
        raise RequestError(_refused(exchange))
    kind = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
    content = _decoded(exchange.body)
    if kind == "text/event-stream":
        return _of_events(content)
    if kind == "application/json":
        return _of_json(content)
    if kind == "text/plain":
        return Heard(content.strip(), {})
    raise RequestError(
        f"the answer is of type {kind or 'nothing'}, not JSON, text or events: {_quoted(content)}"
    )


def _refused(exchange: Exchange) -> str:
    status, headers = exchange.status, exchange.headers
    if 300 <= status < 400:
        where = headers.get("location", "nowhere")
        return f"HTTP {status}: it redirects to {where:.200}; give the address that answers as target.url"
    again = f", retry after {headers['retry-after']:.40} s" if "retry-after" in headers else ""
    return f"HTTP {status}{again}: {_message(exchange.body)}"


def _retry_after_s(exchange: Exchange) -> float | None:
    """None where it is not stated, or stated as a date, which would need the server's clock."""
    stated = exchange.headers.get("retry-after", "")
    return float(stated) if stated.isdecimal() else None


def _message(body: bytes) -> str:
    """OpenAI's ``error.message``, or what else the body says."""
    content = body.decode(errors="replace")
    try:
        return str(json.loads(content)["error"]["message"])[:_QUOTED]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _quoted(content)


def _of_json(content: str) -> Heard:
    found = _object(content)
    text = found.pop("text", None)
    if not isinstance(text, str):
        raise RequestError(f"the answer has no text: {_quoted(content)}")
    return Heard(text, found)


def _of_events(content: str) -> Heard:
    """The text of ``transcript.text.done``: a stream that breaks off before it is no transcript."""
    for line in content.splitlines():
        name, _, value = line.partition(":")
        if name != "data" or not value.lstrip().startswith("{"):
            continue
        event = _object(value)
        if event.get("type") == "transcript.text.done" and isinstance(event.get("text"), str):
            return Heard(event["text"], {})
        if event.get("type") == "error":
            raise RequestError(f"the server broke off: {_quoted(value)}")
    raise RequestError(f"the stream ended before transcript.text.done: {_quoted(content)}")


def _object(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the answer is not JSON ({error}): {_quoted(content)}") from None
    if not isinstance(found, dict):
        raise RequestError(f"the answer is no JSON object: {_quoted(content)}")
    return found


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise RequestError(f"the answer is not UTF-8: {body[:40]!r}") from None


def _quoted(content: str) -> str:
    return repr(content[:_QUOTED])
