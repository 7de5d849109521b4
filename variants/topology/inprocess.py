"""Front end and engine in the calling process: no hop, no copy, the baseline of the topology axis."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable

from harness.errors import UsageError
from harness.protocols import Engine, Evidence, Frontend, Reply, Request, ServiceSpec, Transcript
from harness.spans import SpanRecorder, now_ns
from variants.topology.streams import StreamTable, describe
from variants.topology.types import (
    KINDS,
    AbandonStream,
    Busy,
    CommitStream,
    Completion,
    Done,
    Job,
    OpenStream,
    PushAudio,
    Transcribe,
)
from variants.topology.warmup import tone_wav
from variants.topology.work import speech_seconds

DEFAULT_MAX_PENDING = 8192


def build(spec: ServiceSpec) -> InProcess:
    """Options: ``max_pending``, the jobs that ``submit`` holds before it raises ``Busy``; ``worker``,
    the thread that works on submitted jobs: ``thread`` (one of its own) or ``caller``, which
    isolates a connection server from the interpreter lock that it would share with a worker."""
    max_pending = int(spec.options.get("max_pending", DEFAULT_MAX_PENDING))
    if max_pending < 1:
        raise UsageError(f"topology.options.max_pending is {max_pending}; it has to be at least 1")
    worker = spec.options.get("worker", "thread")
    if worker not in ("thread", "caller"):
        raise UsageError(f"topology.options.worker={worker!r}: use thread or caller")
    return InProcess(spec, max_pending, worker == "caller")


class InProcess:
    """``handle`` works in the caller's thread; ``submit`` in one worker thread.

    An engine serves one request at a time, so a lock orders concurrent callers; waiting for it is the
    ``queue`` span.
    """

    def __init__(self, spec: ServiceSpec, max_pending: int, in_caller: bool = False) -> None:
        self._spec = spec
        self._frontend: Frontend | None = None
        self._engine: Engine | None = None
        self._streams: StreamTable | None = None
        self._turn = threading.Lock()
        self._handled = 0
        self._failed = 0
        self._worker = _Worker(self, max_pending, in_caller)

    def start(self) -> None:
        self._frontend = self._spec.make_frontend()
        self._engine = self._spec.make_engine()
        self._streams = StreamTable(self._engine)
        self._worker.start()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Run the front end on a tone of each length, and the engine on each shape."""
        frontend, engine = self._parts()
        lengths = list(lengths_s)
        with self._turn:
            for length_s in lengths:
                frontend(tone_wav(length_s), SpanRecorder())
            engine.warm_up(lengths)

    def handle(self, request: Request) -> Reply:
        return self.serve(request, now_ns())

    def serve(self, request: Request, entered_ns: int) -> Reply:
        """``entered_ns`` is when the request was handed in: from then until its turn it queues."""
        frontend, engine = self._parts()
        with self._turn:
            started_ns = now_ns()
            spans = self._spec.make_recorder()
            spans.add("queue", entered_ns, started_ns)
            reply = _serve(request, frontend, engine, spans, entered_ns)
            self._handled += 1
            self._failed += reply.error is not None
        return reply

    @property
    def streams(self) -> StreamTable:
        if self._streams is None:
            raise RuntimeError("start() the service before use")
        return self._streams

    def submit(self, job: Job, done: Done) -> None:
        self._worker.submit(job, done)

    def evidence(self) -> Evidence:
        engine = {} if self._engine is None else dict(self._engine.evidence())
        return {
            "topology": {
                "processes": 1,
                "pids": [os.getpid()],
                "hops_per_request": 0,
                "requests": self._handled,
                "failed_requests": self._failed,
                "stream_jobs": 0 if self._streams is None else self._streams.jobs,
            },
            "engine": engine,
        }

    def close(self) -> None:
        """Stop the worker; jobs that wait complete with an error."""
        self._worker.close()

    def _parts(self) -> tuple[Frontend, Engine]:
        if self._frontend is None or self._engine is None:
            raise RuntimeError("start() the service before use")
        return self._frontend, self._engine


def _serve(
    request: Request, frontend: Frontend, engine: Engine, spans: SpanRecorder, started_ns: int
) -> Reply:
    """The whole path of one request; whatever goes wrong in it is the reply's ``error``."""
    transcript, segments, error = None, [], None
    try:
        segments = frontend(request.payload, spans)
        transcript = engine.transcribe(segments, spans)
    except Exception as failure:  # the service outlives whatever one request does to it
        error = describe(failure)
    reply_start_ns = now_ns()
    speech_s = speech_seconds(segments)
    finished_ns = now_ns()
    spans.add("reply", reply_start_ns, finished_ns)
    return Reply(
        request_id=request.request_id,
        transcript=transcript,
        spans=tuple(spans.spans),
        started_ns=started_ns,
        finished_ns=finished_ns,
        error=error,
        segments=len(segments),
        speech_s=speech_s,
    )


class _Worker:
    """Works through submitted jobs in order: one thread, or whichever thread submits (``in_caller``)."""

    def __init__(self, service: InProcess, max_pending: int, in_caller: bool) -> None:
        self._service = service
        self._max_pending = max_pending
        self._in_caller = in_caller
        self._callers_turn = threading.Lock()
        self._jobs: deque[tuple[Job, Done, int]] = deque()
        self._wakeup = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._closing = False

    def start(self) -> None:
        if self._in_caller:
            return
        self._thread = threading.Thread(target=self._run, name="inprocess-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        if self._closing or (self._thread is None and not self._in_caller):
            raise RuntimeError("submit() needs a started, open service")
        submitted_ns = now_ns()
        if self._in_caller:
            with self._callers_turn:
                completion = self._work(job, submitted_ns)
            done(completion)
            return
        if len(self._jobs) >= self._max_pending:
            raise Busy
        self._jobs.append((job, done, submitted_ns))
        self._wakeup.release()

    def close(self) -> None:
        self._closing = True
        self._wakeup.release()
        if self._thread is not None:
            self._thread.join()
        while self._jobs:
            job, done, _ = self._jobs.popleft()
            at_ns = now_ns()
            done(Completion(job, "the service is closing", None, None, at_ns, at_ns))

    def _run(self) -> None:
        while True:
            self._wakeup.acquire()
            if self._closing:
                return
            job, done, submitted_ns = self._jobs.popleft()
            done(self._work(job, submitted_ns))

    def _work(self, job: Job, submitted_ns: int) -> Completion:
        started_ns = now_ns()
        if isinstance(job, Transcribe):
            reply = self._service.serve(job.request, submitted_ns)
            return Completion(job, reply.error, None, reply, started_ns, reply.finished_ns)
        try:
            return self._work_stream(self._service.streams, job, started_ns)
        except Exception as failure:  # the service outlives whatever one stream does to it
            return Completion(job, describe(failure), None, None, started_ns, now_ns())

    def _work_stream(
        self,
        streams: StreamTable,
        job: OpenStream | PushAudio | CommitStream | AbandonStream,
        started_ns: int,
    ) -> Completion:
        samples = job.samples if isinstance(job, PushAudio) else None
        answer = streams.work(KINDS[type(job)], job.stream_id, samples)
        if not isinstance(answer, Transcript):
            return Completion(job, None, answer, None, started_ns, now_ns())
        reply = _final_reply(job.stream_id, answer, started_ns)
        return Completion(job, None, None, reply, started_ns, reply.finished_ns)


def _final_reply(stream_id: int, transcript: Transcript, started_ns: int) -> Reply:
    return Reply(str(stream_id), transcript, (), started_ns, now_ns(), segments=len(transcript.hypotheses))
