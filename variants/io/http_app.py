"""The service's ASGI application: OpenAI's endpoints, the service's health and metrics, and a page.

It runs on one loop. A request reads its form, is handed to the backend without waiting for it, and is
answered when the backend has called back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from harness.protocols import Reply, Request
from harness.spans import Span, now_ns
from variants.io.conversation import Shared
from variants.io.http_answers import FORMATS, Answer, Refused, as_json, as_text, refusal, transcript
from variants.io.http_jobs import Jobs
from variants.io.http_metrics import Counts
from variants.io.http_realtime import Conversation, Patience, Receive, Send
from variants.io.http_upload import Body, Form, Share, UploadLimits, read_form
from variants.topology.types import Busy, Transcribe

Scope = Mapping[str, Any]
REALTIME = "/v1/realtime"
_PAGE_POLICY = (
    "content-security-policy",
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
)
_LINGER_S = 1.0
_ANSWER_S = 10.0
"""For a client to take an answer."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the application takes. ``max_queued`` recordings may be in the backend at once."""

    upload: UploadLimits
    patience: Patience
    max_queued: int
    model: str


class App:
    """See the module. ``counts`` is what it has done; ``draining`` has it refuse what is new."""

    def __init__(self, jobs: Jobs, shared: Shared, rules: Rules) -> None:
        self._jobs = jobs
        self._shared = shared
        self._rules = rules
        self._budget = shared.budget
        self._queued = 0
        self.counts = Counts()
        self.draining = False
        self._routes: Mapping[tuple[str, str], Callable[[Scope, Body], Awaitable[Answer]]] = {
            ("GET", "/"): self._page,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/audio/transcriptions"): self._transcriptions,
        }
        self._paths = {path for _, path in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._converse(scope, receive, send)
            return
        body = Body(receive, self._rules.upload)
        answer = await self._answer(scope, body)
        self.counts.note(scope["path"] if scope["path"] in self._paths else "other", answer.status)
        self.counts.bytes_in += body.bytes_taken
        self.counts.bytes_out += len(answer.body)
        await _send(answer, body, send)

    async def _answer(self, scope: Scope, body: Body) -> Answer:
        """What goes wrong with one request is its own answer: 500 is a defect of ours."""
        try:
            return await self._route(scope)(scope, body)
        except Refused as refused:
            return refusal(refused)
        except Exception as error:
            self.counts.defects[type(error).__name__] += 1
            return refusal(Refused(500, f"internal error: {type(error).__name__}"))

    def _route(self, scope: Scope) -> Callable[[Scope, Body], Awaitable[Answer]]:
        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        if path not in self._paths:
            raise Refused(404, f"there is nothing at {path:.100}")
        if (method, path) not in self._routes:
            raise Refused(405, f"{path} does not take {method:.20}")
        return self._routes[method, path]

    # ------------------------------------------------------------ live sound

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != REALTIME or self.draining:
            await send({"type": "websocket.close", "code": 1013})  # not accepted: 403
            return
        self.counts.conversations += 1
        try:
            await Conversation(self._jobs, self._shared, self._rules.patience, receive, send).run()
        except TimeoutError:
            self.counts.note(REALTIME, 408)  # it does not take what it is told
        except OSError:
            self.counts.note(REALTIME, 499)  # it left in the middle
        except Exception as error:
            self.counts.defects[type(error).__name__] += 1
            raise

    # ------------------------------------------------------------ a recording

    async def _transcriptions(self, scope: Scope, body: Body) -> Answer:
        opened_ns = now_ns()
        self._refuse_if_full()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with Share(self._budget) as share:
            form = await read_form(body, headers, self._rules.upload, share)
            wanted = _wanted(form)
            received_ns = now_ns()
            self._refuse_if_full()  # others may have been faster with their bodies
            reply = await self._transcribed(form.take_file())
        answered = Span("reply", reply.finished_ns, now_ns())
        received = Span("ipc", opened_ns, received_ns)
        waited = Span("queue", received_ns, max(received_ns, reply.started_ns))
        reply = replace(reply, spans=(received, waited, *reply.spans, answered))
        self.counts.seconds.observe((answered.end_ns - opened_ns) * 1e-9)
        self.counts.speech_s += reply.speech_s
        return transcript(reply, *wanted)

    async def _transcribed(self, payload: bytes) -> Reply:
        """Hand the recording to the backend and wait for it, whatever its client does meanwhile."""
        request = Request("http", payload)
        try:
            answered = self._jobs.submit(lambda token: Transcribe(request, token))
        except Busy:
            raise self._full() from None
        except Exception as error:  # a backend that is down must not look like a defect of the door
            raise Refused(503, f"cannot serve: {error}", retry_after_s=5) from error
        self._queued += 1
        answered.add_done_callback(self._dequeue)
        completion = await answered
        if completion.reply is None:
            raise Refused(503, completion.error or "the service gave no answer", retry_after_s=5)
        if completion.reply.error is not None:
            raise Refused(422, completion.reply.error)
        return completion.reply

    def _dequeue(self, _answered: object) -> None:
        self._queued -= 1

    def _refuse_if_full(self) -> None:
        if self.draining:
            raise Refused(503, "the server is going down", retry_after_s=5)
        if self._queued >= self._rules.max_queued:
            raise self._full()

    def _full(self) -> Refused:
        """Come back when what waits should be done: after as long as recordings took on average."""
        again_s = max(1, math.ceil(self.counts.seconds.mean_s))
        return Refused(429, f"{self._queued} recordings wait already", retry_after_s=again_s)

    # ------------------------------------------------------------ what else there is

    async def _health(self, _scope: Scope, _body: Body) -> Answer:
        return as_text("ok\n")

    async def _ready(self, _scope: Scope, _body: Body) -> Answer:
        """Whether a recording would be taken now."""
        self._refuse_if_full()
        return as_text("ready\n")

    async def _metrics(self, _scope: Scope, _body: Body) -> Answer:
        text = self.counts.exposition(self._queued, self._budget.held)
        return replace(as_text(text), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, _scope: Scope, _body: Body) -> Answer:
        model = {"id": self._rules.model, "object": "model", "created": 0, "owned_by": "local"}
        return as_json({"object": "list", "data": [model]})

    async def _page(self, _scope: Scope, _body: Body) -> Answer:
        return Answer(200, "text/html; charset=utf-8", _page_html(), (_PAGE_POLICY,))


@cache
def _page_html() -> bytes:
    return files("variants.io").joinpath("http_page.html").read_bytes()


def _wanted(form: Form) -> tuple[str, bool]:
    """The format of the answer, and whether it is streamed. Other fields of the API (model, language,
    prompt, temperature) say nothing to a model that has one way to transcribe. Times of words are refused."""
    if form.file is None:
        raise Refused(400, "the form has no file")
    wanted = form.fields.get("response_format", "json")
    if wanted not in FORMATS:
        raise Refused(400, f"response_format {wanted!r:.40} is none of {', '.join(FORMATS)}")
    if "word" in form.fields.get("timestamp_granularities[]", "").split(","):
        raise Refused(400, "timestamp_granularities: there are times of segments here, none of words")
    return wanted, form.fields.get("stream", "").lower() == "true"


async def _send(answer: Answer, body: Body, send: Send) -> None:
    """A client whose body was not read to its end is told, listened to for a moment, and hung up on."""
    headers = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
    early = answer.status >= 400 and not body.over
    if early:
        headers.append(("connection", "close"))
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (*headers, *answer.headers)]
    try:
        async with asyncio.timeout(_ANSWER_S):
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            await send({"type": "http.response.body", "body": answer.body, "more_body": early})
            if early:
                await body.discard(_LINGER_S)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        return  # it does not read: the server closes a connection whose answer is incomplete
