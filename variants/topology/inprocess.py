"""Front end and engine in the calling process: no hop, no copy, the baseline of the topology axis."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from harness.protocols import (
    BuildProgress,
    Engine,
    Evidence,
    Frontend,
    Reply,
    Request,
    ServiceSpec,
    Transcript,
    Work,
    silent,
)
from harness.protocols.engine import ignore
from harness.protocols.options import Positive
from harness.spans import SpanRecorder, Unrecorded, now_ns
from variants import registry
from variants.frontend.stages import evidence_of
from variants.serving.streams import describe
from variants.topology.access import EngineAccess, Shared, access_to
from variants.topology.live import LiveJobs, final_reply
from variants.topology.roles import spoken, telling
from variants.topology.types import (
    KINDS,
    Busy,
    Completion,
    Done,
    Job,
    PushAudio,
    Transcribe,
)
from variants.topology.warmup import tone_wav

_SIDE_BY_SIDE = 64  # recordings that wait for each other; a thread that waits costs next to nothing
_NO_SPANS = Unrecorded()  # for live audio, which records none


@dataclass(frozen=True, slots=True)
class Options:
    max_pending: Positive = 8192
    """Jobs that ``submit`` holds before a connection server has to slow its clients down."""
    worker: Literal["thread", "caller"] = "thread"
    """Submitted jobs run in a thread of their own, or in the connection's: that isolates a connection
    server from the interpreter lock which it would share with a worker."""


def build(spec: ServiceSpec) -> InProcess:
    options: Options = registry.options("topology", "inprocess", spec.options)
    return InProcess(spec, options.max_pending, options.worker == "caller")


class InProcess:
    """``handle`` works in the caller's thread; ``submit`` in one worker thread, or, where requests are
    batched, recordings in as many as could be in a batch, and live streams in none that waits for them.

    Callers take turns, one request at a time, or, where requests are batched, share the engine (see
    ``variants.topology.access``). Waiting is the ``queue`` span.
    """

    def __init__(self, spec: ServiceSpec, max_pending: int, in_caller: bool = False) -> None:
        self._spec = spec
        self._frontend: Frontend | None = None
        self._engine: Engine | None = None
        self._access: EngineAccess | None = None
        self._count = threading.Lock()
        self._handled = 0
        self._failed = 0
        self._worker = _Worker(self, max_pending, in_caller)
        self._live: LiveJobs | None = None

    def start(self, progress: BuildProgress = silent) -> None:
        self._frontend = self._spec.make_frontend()
        self._engine = telling(self._spec.make_engine, progress)()
        self._access = access = access_to(self._engine)
        if isinstance(access, Shared) and not self._worker.in_caller:
            self._live = LiveJobs(access, self._worker.max_pending, self._spec.make_recorder)
        self._worker.start(1 if self._live is None else _SIDE_BY_SIDE)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Run the front end on a tone of each length, and the engine on each shape."""
        frontend, _ = self._parts()
        lengths = list(lengths_s)
        for length_s in lengths:
            frontend(tone_wav(length_s), SpanRecorder())
        if self._engine is not None:
            self._engine.warm_up(lengths)

    def handle(self, request: Request) -> Reply:
        return self.serve(request, now_ns())

    def serve(self, request: Request, entered_ns: int) -> Reply:
        """``entered_ns`` is when the request was handed in: from then until its turn it queues."""
        frontend, engine = self._parts()
        work = Work("transcribe", ignore, self._spec.make_recorder())
        engine.serve(work, partial(_prepare, request, frontend), entered_ns)
        reply = _reply(request, work, entered_ns)
        with self._count:
            self._handled += 1
            self._failed += reply.error is not None
        return reply

    def work_on(self, work: Work) -> Work:
        """Do ``work`` of a live stream; for the thread that works on submitted jobs."""
        _, engine = self._parts()
        return engine.finish(work)

    def submit(self, job: Job, done: Done) -> None:
        if self._live is None or isinstance(job, Transcribe):
            self._worker.submit(job, done)
        else:
            self._live.submit(job, done)

    def evidence(self) -> Evidence:
        engine = {} if self._engine is None else dict(self._engine.evidence())
        return {
            "topology": {
                "processes": 1,
                "pids": [os.getpid()],
                "hops_per_request": 0,
                "requests": self._handled,
                "failed_requests": self._failed,
            },
            "frontend": {} if self._frontend is None else evidence_of(self._frontend.stages),
            "engine": engine,
        }

    def close(self) -> None:
        """Stop the workers; jobs that wait complete with an error."""
        self._worker.close()
        if self._live is not None:
            self._live.close()

    def _parts(self) -> tuple[Frontend, EngineAccess]:
        if self._frontend is None or self._access is None:
            raise RuntimeError("start() the service before use")
        return self._frontend, self._access


def _prepare(request: Request, frontend: Frontend, work: Work) -> None:
    """The front end's part; whatever goes wrong in it is the work's ``error``."""
    try:
        work.segments = frontend(request.payload, work.spans)
    except Exception as failure:  # the service outlives whatever one request does to it
        work.error = describe(failure)


def _reply(request: Request, work: Work, started_ns: int) -> Reply:
    reply_start_ns = now_ns()
    segments, speech_s = spoken(work)
    finished_ns = now_ns()
    work.spans.add("reply", reply_start_ns, finished_ns)
    return Reply(
        request_id=request.request_id,
        transcript=work.result if isinstance(work.result, Transcript) else None,
        spans=tuple(work.spans.spans),
        started_ns=started_ns,
        finished_ns=finished_ns,
        error=work.error,
        segments=segments,
        speech_s=speech_s,
        batch_id=work.batch_id,
        batch_size=work.batch_size,
    )


class _Worker:
    """Begins submitted jobs in order: in threads of its own, or in whichever submits (``in_caller``)."""

    def __init__(self, service: InProcess, max_pending: int, in_caller: bool) -> None:
        self._service = service
        self.max_pending = max_pending
        self.in_caller = in_caller
        self._callers_turn = threading.Lock()
        self._jobs: deque[tuple[Job, Done, int]] = deque()
        self._wakeup = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._closing = False

    def start(self, threads: int = 1) -> None:
        for number in range(0 if self.in_caller else threads):
            thread = threading.Thread(target=self._run, name=f"inprocess-worker-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: Job, done: Done) -> None:
        if self._closing or not (self._threads or self.in_caller):
            raise RuntimeError("submit() needs a started, open service")
        submitted_ns = now_ns()
        if self.in_caller:
            with self._callers_turn:
                completion = self._work(job, submitted_ns)
            done(completion)
            return
        if len(self._jobs) >= self.max_pending:
            raise Busy
        self._jobs.append((job, done, submitted_ns))
        self._wakeup.release()

    def close(self) -> None:
        self._closing = True
        self._wakeup.release(max(1, len(self._threads)))
        for thread in self._threads:
            thread.join()
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
        samples = job.samples if isinstance(job, PushAudio) else None
        kind, stream_id = KINDS[type(job)], job.stream_id
        work = self._service.work_on(Work(kind, ignore, _NO_SPANS, stream_id=stream_id, samples=samples))
        if not isinstance(work.result, Transcript):
            return Completion(job, work.error, work.result, None, started_ns, now_ns())
        reply = final_reply(work, work.result, started_ns)
        return Completion(job, None, None, reply, started_ns, reply.finished_ns)
