"""Front end and engine in the calling process: no hop, no copy, the baseline of the topology axis."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable

from harness.errors import RequestError, UsageError
from harness.protocols import Engine, Evidence, Frontend, Reply, Request, ServiceSpec, Stream
from harness.spans import SpanRecorder, now_ns
from variants.topology.types import (
    FEATURE_HOP_S,
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

DEFAULT_MAX_PENDING = 8192


def build(spec: ServiceSpec) -> InProcess:
    """Options: ``max_pending``, the jobs that ``submit`` holds before it raises ``Busy``."""
    max_pending = int(spec.options.get("max_pending", DEFAULT_MAX_PENDING))
    if max_pending < 1:
        raise UsageError(f"topology.options.max_pending is {max_pending}; it has to be at least 1")
    return InProcess(spec, max_pending)


class InProcess:
    """``handle`` works in the caller's thread; ``submit`` in one worker thread.

    A front end (a voice activity detector has state) and an engine serve one request at a time, so
    a lock orders concurrent callers; waiting for it is the ``queue`` span.
    """

    def __init__(self, spec: ServiceSpec, max_pending: int) -> None:
        self._spec = spec
        self._frontend: Frontend | None = None
        self._engine: Engine | None = None
        self._turn = threading.Lock()
        self._handled = 0
        self._failed = 0
        self._worker = _Worker(self, max_pending)

    def start(self) -> None:
        self._frontend = self._spec.make_frontend()
        self._engine = self._spec.make_engine()
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
        frontend, engine = self._parts()
        entered_ns = now_ns()
        with self._turn:
            started_ns = now_ns()
            spans = SpanRecorder()
            spans.add("queue", entered_ns, started_ns)
            reply = _serve(request, frontend, engine, spans, entered_ns)
            self._handled += 1
            self._failed += reply.error is not None
        return reply

    def open_stream(self) -> Stream:
        return self._parts()[1].open_stream()

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
                "stream_jobs": self._worker.stream_jobs,
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
    except RequestError as failure:
        error = str(failure)
    except Exception as failure:  # the service outlives whatever one request does to it
        error = f"internal: {type(failure).__name__}: {failure}"
    reply_start_ns = now_ns()
    speech_s = sum(segment.values.shape[-1] for segment in segments) * FEATURE_HOP_S
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
    """One thread that works through submitted jobs in order."""

    def __init__(self, service: InProcess, max_pending: int) -> None:
        self._service = service
        self._max_pending = max_pending
        self._jobs: deque[tuple[Job, Done]] = deque()
        self._wakeup = threading.Semaphore(0)
        self._streams: dict[int, Stream] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self.stream_jobs = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="inprocess-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        if self._closing or self._thread is None:
            raise RuntimeError("submit() needs a started, open service")
        if len(self._jobs) >= self._max_pending:
            raise Busy
        self._jobs.append((job, done))
        self._wakeup.release()

    def close(self) -> None:
        self._closing = True
        self._wakeup.release()
        if self._thread is not None:
            self._thread.join()
        while self._jobs:
            job, done = self._jobs.popleft()
            at_ns = now_ns()
            done(Completion(job, "the service is closing", None, None, at_ns, at_ns))

    def _run(self) -> None:
        while True:
            self._wakeup.acquire()
            if self._closing:
                return
            job, done = self._jobs.popleft()
            done(self._work(job))

    def _work(self, job: Job) -> Completion:
        started_ns = now_ns()
        if isinstance(job, Transcribe):
            reply = self._service.handle(job.request)
            return Completion(job, reply.error, None, reply, started_ns, reply.finished_ns)
        self.stream_jobs += 1
        try:
            return self._work_stream(job, started_ns)
        except KeyError:
            error = f"no open stream {job.stream_id}: it was never opened, or failed"
        except Exception as failure:  # the service outlives whatever one stream does to it
            self._streams.pop(job.stream_id, None)
            error = f"{type(failure).__name__}: {failure}"
        return Completion(job, error, None, None, started_ns, now_ns())

    def _work_stream(self, job: Job, started_ns: int) -> Completion:
        streams, text, reply = self._streams, None, None
        if isinstance(job, PushAudio):
            text = streams[job.stream_id].push(job.samples)
        elif isinstance(job, OpenStream):
            if job.stream_id in streams:
                raise RequestError(f"stream {job.stream_id} is open already")
            streams[job.stream_id] = self._service.open_stream()
        elif isinstance(job, CommitStream):
            reply = _final_reply(job.stream_id, streams.pop(job.stream_id), started_ns)
        elif isinstance(job, AbandonStream):
            streams.pop(job.stream_id, None)
        return Completion(job, None, text, reply, started_ns, now_ns())


def _final_reply(stream_id: int, stream: Stream, started_ns: int) -> Reply:
    transcript = stream.commit()
    return Reply(str(stream_id), transcript, (), started_ns, now_ns(), segments=len(transcript.hypotheses))
