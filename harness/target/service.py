"""A foreign server as a service: the same loops, rows and rules, and of its time what a client can tell."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

from harness.config.schema import TargetConfig
from harness.errors import RequestError
from harness.protocols import BuildProgress, Evidence, Reply, Request, Transcript, silent
from harness.spans import Span, now_ns
from harness.target import address
from harness.target.exchange import Exchange, Limits, TryAgainError
from harness.target.openai import PATH, Heard, encode_form, read_answer
from harness.target.threads import PerThread

_FIRST_PAUSE_S = 0.1
_VERSION_HEADERS = ("server", "openai-version", "x-powered-by")


class TargetService:
    """``harness.protocols.Service`` in front of an address. A request that fails is a failed request, but
    for ``target.retries``."""

    def __init__(self, target: TargetConfig) -> None:
        """Raises ``UsageError`` for a URL that is none, ``UnavailableError`` for a key that is not there."""
        self._target = target
        self._url = address.base_url(target) + PATH
        self._key = address.key(target)
        self._fields = fields_of(target)
        self._connections = PerThread(Limits(target.timeout_s, target.max_answer_bytes))
        self._seen = _Seen()

    def start(self, progress: BuildProgress = silent) -> None:
        progress(f"asking {address.stated_host(self._target)}")

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Nothing: requests warm a foreign server up, as the runner sends them."""

    def handle(self, request: Request) -> Reply:
        asked_ns = tried_ns = now_ns()
        before: list[Span] = []  # attempts that failed
        for attempt in count(1):
            try:
                exchange, heard = self.ask(request.payload)
                break
            except RequestError as error:
                if attempt > self._target.retries or not isinstance(error, TryAgainError):
                    return self._failed(request, asked_ns, error, attempt)
                self._pause(error, attempt)
                before.append(Span("wait", tried_ns, tried_ns := now_ns()))
        read_ns = now_ns()
        spans = (
            *before,
            Span("upload", tried_ns, exchange.asked_ns),  # the form is made
            *exchange.spans,
            Span("download", exchange.read_ns, read_ns),  # and the answer is read
        )
        transcript = Transcript(heard.text)
        return Reply(
            request.request_id,
            transcript,
            spans,
            asked_ns,
            read_ns,
            segments=heard.segments,
            attempts=attempt,
        )

    def _failed(self, request: Request, asked_ns: int, error: RequestError, attempts: int) -> Reply:
        self._seen.failed()
        said = self._clean(str(error))
        return Reply(request.request_id, None, (), asked_ns, now_ns(), error=said, attempts=attempts)

    def _pause(self, error: TryAgainError, attempt: int) -> None:
        self._seen.retried()
        pause_s = _FIRST_PAUSE_S * 2 ** (attempt - 1) if error.after_s is None else error.after_s
        time.sleep(min(pause_s, self._target.timeout_s))

    def ask(self, payload: bytes) -> tuple[Exchange, Heard]:
        """Send one recording. Raises ``RequestError`` where no transcript comes back."""
        kind, body = encode_form(payload, self._fields)
        headers = [("content-type", kind), ("accept", "*/*"), ("user-agent", "speech-serving-bench")]
        if self._key is not None:
            headers.append(("authorization", f"Bearer {self._key}"))
        exchange = self._connections.own.ask(self._url, headers, body)
        self._seen.answered(exchange)
        return exchange, read_answer(exchange)

    def _clean(self, message: str) -> str:
        return address.without_secrets(message, self._target, self._key)

    def evidence(self) -> Evidence:
        return {
            "target": {
                "host": address.stated_host(self._target),
                "model": self._target.model,
                **self._seen.as_dict(),
            }
        }

    def close(self) -> None:
        self._connections.close()


def fields_of(target: TargetConfig) -> dict[str, str]:
    """What is asked for beside the recording."""
    fields = {"model": target.model, "response_format": target.response_format}
    if target.stream:
        fields["stream"] = "true"
    if target.language:
        fields["language"] = target.language
    return fields


class _Seen:
    """What a server's answers said of it; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._versions: dict[str, set[str]] = {}
        self._timing_s: Counter[str] = Counter()
        self._timed = 0
        self._connecting_s: Counter[str] = Counter()
        self._connections = 0
        self._failed = 0
        self._retries = 0

    def answered(self, exchange: Exchange) -> None:
        timing = dict(server_timing(exchange.headers.get("server-timing", "")))
        with self._lock:
            self._statuses[exchange.status] += 1
            if exchange.connected_ns > exchange.asked_ns:
                self._connections += 1
                self._connecting_s.update(exchange.connecting_s)
            for name in _VERSION_HEADERS:
                if name in exchange.headers:
                    self._versions.setdefault(name, set()).add(exchange.headers[name][:100])
            self._timed += bool(timing)
            self._timing_s.update(timing)

    def failed(self) -> None:
        with self._lock:
            self._failed += 1

    def retried(self) -> None:
        with self._lock:
            self._retries += 1

    def as_dict(self) -> Mapping[str, Any]:
        """``connecting_s``: means over the connections; ``server_timing_s``: over the answers that had such a
        header. Warm-up is included in all of it."""
        with self._lock:
            means = {name: total / self._timed for name, total in self._timing_s.items()}
            connecting = {name: total / self._connections for name, total in self._connecting_s.items()}
            return {
                "answers": {str(status): count for status, count in sorted(self._statuses.items())},
                "failed": self._failed,
                "connections": self._connections,
                "versions": {name: sorted(found) for name, found in sorted(self._versions.items())},
                "connecting_s": connecting,
                "server_timing_s": means,
                "retries": self._retries,
            }


def server_timing(header: str) -> Iterator[tuple[str, float]]:
    """Names and seconds of a Server-Timing header (W3C); what has no duration is left out."""
    for metric in header.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            label, _, value = parameter.partition("=")
            try:
                if label.strip().lower() == "dur" and name:
                    yield name, float(value.strip().strip('"')) * 1e-3
            except ValueError:
                continue
