"""From a reply to a row: the ledger of one request."""

from __future__ import annotations

from harness.corpus.manifest import AudioItem
from harness.measure.ledger import balance
from harness.record import ProcessRecord, Sample
from harness.spans import Span
from harness.workload.loops import Completed


def to_sample(done: Completed, item: AudioItem, process: ProcessRecord, phase: str) -> Sample:
    """The row of one answered request.

    The time from the scheduled arrival to the start of service is the request's ``queue`` span,
    unless the service (a server with queues of its own) has accounted for it.
    """
    reply = done.reply
    spans = (Span("queue", done.scheduled_ns, reply.started_ns), *reply.spans)
    ledger = balance(spans, done.scheduled_ns, reply.finished_ns)
    hypotheses = reply.transcript.hypotheses if reply.transcript else ()

    def seconds(at_ns: int) -> float:
        return (at_ns - process.epoch_ns) * 1e-9

    return Sample(
        process=process.index,
        phase=phase,
        index=done.index,
        request_id=reply.request_id,
        bucket=item.bucket,
        container=item.container,
        sample_rate=item.sample_rate or 0,
        channels=item.channels or 0,
        audio_s=item.duration_s or 0.0,
        speech_s=reply.speech_s,
        segments=reply.segments,
        scheduled_s=seconds(done.scheduled_ns),
        dispatched_s=seconds(done.dispatched_ns),
        started_s=seconds(reply.started_ns),
        finished_s=seconds(reply.finished_ns),
        unaccounted_s=ledger.unaccounted_s,
        spans=ledger.seconds,
        text=reply.transcript.text if reply.transcript else "",
        reference_text=item.text,
        token_ids=tuple(token for hypothesis in hypotheses for token in hypothesis.tokens),
        error=reply.error,
        batch_id=reply.batch_id,
        batch_size=reply.batch_size,
        expect_failure=item.expect_failure,
        attempts=reply.attempts,
    )
