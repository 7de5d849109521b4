"""A form of ``multipart/form-data`` as it arrives: one file in memory, its fields, and limits on both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from variants.io.http_answers import Refused
from variants.io.http_realtime import Receive
from variants.io.types import Budget

_FILE = "file"
_MAX_PARTS = 32
_MAX_FIELD_BYTES = 64 << 10
_MAX_HEADERS = 16
_MAX_HEADER_BYTES = 4 << 10
_OVERHEAD_BYTES = _MAX_PARTS * (_MAX_FIELD_BYTES + _MAX_HEADERS * _MAX_HEADER_BYTES)
"""Of a body beside its file, at most."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    max_bytes: int
    piece_s: float
    """For the next piece of a body to arrive."""
    whole_s: float
    """For all of it."""


class Share:
    """What one request holds of the bytes that all uploads together may hold. A context manager."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def take(self, amount: int) -> None:
        """Raises ``Refused`` where the others would have too little left."""
        if not self._budget.take(amount, self._held):
            raise Refused(503, "the server holds as much audio as it may", retry_after_s=1)
        self._held += amount

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._held)


class Body:
    """The body of one request, read piece by piece within its limits."""

    def __init__(self, receive: Receive, limits: UploadLimits) -> None:
        self._receive = receive
        self._limits = limits
        self.bytes_taken = 0
        self.over = False
        """All of it was read, or its client is gone."""

    async def piece(self) -> bytes:
        """The next bytes; empty at the end. Raises ``Refused`` for a client that is slow or gone."""
        if self.over:
            return b""
        try:
            async with asyncio.timeout(self._limits.piece_s):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"nothing of the body came for {self._limits.piece_s:g} s") from None
        if message["type"] == "http.disconnect":
            self.over = True
            raise Refused(499, "the client left before its request was complete")
        self.over = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        self.bytes_taken += len(data)
        return data

    async def discard(self, for_s: float) -> None:
        """Read what a refused client still sends, for a moment: closing the connection at once would take
        the answer away from it (TCP resets)."""
        try:
            async with asyncio.timeout(for_s):
                while not self.over:
                    await self.piece()
        except (TimeoutError, Refused):
            return


async def read_form(body: Body, headers: Mapping[str, str], limits: UploadLimits, share: Share) -> Form:
    """The whole form. Raises ``Refused`` for what is not one, is too large or does not arrive in time."""
    form = Form(limits.max_bytes)
    parser = _parser(headers, form)
    _check_length(headers, limits.max_bytes)
    try:
        async with asyncio.timeout(limits.whole_s):
            while not body.over:
                data = await body.piece()
                share.take(len(data))
                parser.write(data)
        parser.finalize()
    except TimeoutError:
        raise Refused(408, f"the body took longer than {limits.whole_s:g} s") from None
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {error}") from None
    if not form.complete:
        raise Refused(400, "the form ends before its closing boundary")
    return form


def _parser(headers: Mapping[str, str], form: Form) -> MultipartParser:
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise Refused(415, "send the recording as multipart/form-data with a part called file")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refused(400, "the content type names no boundary")
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {error}") from None


def _check_length(headers: Mapping[str, str], max_bytes: int) -> None:
    """A body that states that it is too large is refused before it is read."""
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes + _OVERHEAD_BYTES:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, f"a recording has at most {max_bytes} bytes here")


@dataclass(slots=True)
class Form:
    """The parts so far: what the parser's callbacks make of them."""

    max_bytes: int
    fields: dict[str, str] = field(default_factory=dict)
    file: bytearray | None = None
    complete: bool = False
    _parts: int = 0
    _name: str = ""
    _value: bytearray = field(default_factory=bytearray)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def take_file(self) -> bytes:
        """The recording, which is not kept here as well."""
        taken, self.file = bytes(self.file or b""), None
        self._value = bytearray()
        return taken

    def begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise Refused(400, f"a form has at most {_MAX_PARTS} parts")
        self._name, self._value = "", bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode(errors="replace")

    def headers_end(self) -> None:
        if not self._name:
            raise Refused(400, "a part of the form has no name")
        if self._name == _FILE:
            if self.file is not None:
                raise Refused(400, "the form has more than one file")
            self.file = self._value

    def data(self, data: bytes, start: int, end: int) -> None:
        is_file = self._name == _FILE
        if len(self._value) + end - start > (self.max_bytes if is_file else _MAX_FIELD_BYTES):
            raise (
                _too_large(self.max_bytes)
                if is_file
                else Refused(413, f"field {self._name!r:.60} is longer than {_MAX_FIELD_BYTES} bytes")
            )
        self._value += memoryview(data)[start:end]

    def end(self) -> None:
        """A field that comes again is a list, with commas."""
        if self._name != _FILE:
            value = self._value.decode(errors="replace")
            self.fields[self._name] = ",".join(filter(None, (self.fields.get(self._name), value)))

    def finish(self) -> None:
        self.complete = True
