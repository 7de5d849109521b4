"""Our own server behind its HTTP door, as a client that looks like a service: spans of both sides.

Client and server run on one host and read one clock, so the server's spans, which its ``verbose_json``
states in nanoseconds, lie beside the client's.
"""

from __future__ import annotations

from harness.errors import RequestError
from harness.protocols import Reply, Request, Transcript
from harness.protocols.sockets import Address
from harness.spans import Span, now_ns
from harness.target.exchange import Exchange, Limits
from harness.target.openai import PATH, Heard, encode_form, read_answer
from harness.target.threads import PerThread
from harness.workload.client_recordings import both_sides

_MAX_ANSWER_BYTES = 16 << 20


class HttpRecordings:
    """``handle`` as a ``Service`` has it. Safe from several threads, each with its own connection."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._url = f"http://{address}/v1{PATH}"
        self._connections = PerThread(Limits(timeout_s, _MAX_ANSWER_BYTES))

    def handle(self, request: Request) -> Reply:
        asked_ns = now_ns()
        try:
            kind, body = encode_form(request.payload, {"response_format": "verbose_json"})
            exchange = self._connections.own.ask(self._url, (("content-type", kind),), body)
            return _reply(request.request_id, read_answer(exchange), exchange, asked_ns)
        except RequestError as error:
            return Reply(request.request_id, None, (), asked_ns, now_ns(), error=str(error))

    def close(self) -> None:
        self._connections.close()


def _reply(request_id: str, heard: Heard, exchange: Exchange, asked_ns: int) -> Reply:
    said = heard.extra
    spans = tuple(Span(*each) for each in said["spans"])
    reply = Reply(
        request_id,
        Transcript(heard.text),
        spans,
        *_bounds(spans, exchange),
        segments=said["segments_heard"],
        speech_s=said["duration"],
        batch_id=said["batch_id"],
        batch_size=said["batch_size"],
    )
    return both_sides(reply, asked_ns, exchange.sent_ns, exchange.found_ns, exchange.core_wait_ns)


def _bounds(spans: tuple[Span, ...], exchange: Exchange) -> tuple[int, int]:
    starts, ends = (span.start_ns for span in spans), (span.end_ns for span in spans)
    return min(starts, default=exchange.sent_ns), max(ends, default=exchange.found_ns)
