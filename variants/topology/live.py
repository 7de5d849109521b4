"""Jobs of live streams on an engine that computes them together: handed in at once, answered when done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from harness.protocols import Reply, Transcript, Work
from harness.spans import SpanRecorder, Unrecorded, now_ns
from variants.topology.access import Shared
from variants.topology.types import KINDS, Busy, CommitStream, Completion, Done, Job, PushAudio, Transcribe

_UNRECORDED = Unrecorded()


class LiveJobs:
    """Never waits for an answer; a thread of its own sees to it that somebody steps the engine."""

    def __init__(self, access: Shared, max_pending: int, make_recorder: Callable[[], SpanRecorder]) -> None:
        self._access = access
        self._max_pending = max_pending
        self._make_recorder = make_recorder
        self._pending: dict[Work, tuple[Job, Done]] = {}
        self._wakeup = threading.Semaphore(0)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="inprocess-live", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        if self._closing or isinstance(job, Transcribe):
            raise RuntimeError("submit() of a live stream's job needs an open service")
        if len(self._pending) >= self._max_pending:
            raise Busy
        # Of a stream's chunks there are thousands a second, and nobody asks where their time went.
        spans = self._make_recorder() if isinstance(job, CommitStream) else _UNRECORDED
        samples = job.samples if isinstance(job, PushAudio) else None
        answer = partial(self._answer, submitted_ns=now_ns())
        work = Work(KINDS[type(job)], answer, spans, stream_id=job.stream_id, samples=samples)
        self._pending[work] = job, done
        self._access.post(work)
        self._wakeup.release()

    def close(self) -> None:
        self._closing = True
        self._wakeup.release()
        self._thread.join()
        for work in list(self._pending):
            work.result, work.error = None, "the service is closing"
            self._answer(work, submitted_ns=now_ns())

    def _run(self) -> None:
        while True:
            self._wakeup.acquire()
            if self._closing:
                return
            if self._pending:
                self._access.attend()

    def _answer(self, work: Work, *, submitted_ns: int) -> None:
        job, done = self._pending.pop(work)
        if isinstance(work.result, Transcript):
            reply = final_reply(work, work.result, submitted_ns)
            done(Completion(job, None, None, reply, submitted_ns, reply.finished_ns))
        else:
            done(Completion(job, work.error, work.result, None, submitted_ns, now_ns()))


def final_reply(work: Work, transcript: Transcript, started_ns: int) -> Reply:
    """To the end of a live stream."""
    return Reply(
        request_id=str(work.stream_id),
        transcript=transcript,
        spans=tuple(work.spans.spans),
        started_ns=started_ns,
        finished_ns=now_ns(),
        segments=len(transcript.hypotheses),
        batch_id=work.batch_id,
        batch_size=work.batch_size,
    )
