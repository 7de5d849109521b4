"""What a recording or a live sample does to its decoder or model costs one answer, in every topology."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from harness.protocols import Request
from tests.harness.audio.killing import decoders_killed
from tests.harness.audio.recordings import RATE, Encoding, encode
from tests.variants.topology import parts
from variants.topology.types import Backend, CommitStream, Completion, OpenStream, PushAudio

FLAC = Encoding("flac", "flac", 8000)
LONG = encode(np.zeros(1800 * 8000, np.float32), FLAC)


@pytest.fixture(scope="module", params=["inprocess", "collapsed", "microservices"])
def service(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = parts.build(request.param)
    backend.start()
    yield backend
    backend.close()


def test_a_decoder_that_dies_costs_one_row(service: Backend) -> None:
    error = None
    with decoders_killed(lambda: psutil.Process().children(recursive=True)):
        while error is None:
            error = service.handle(Request("a", LONG)).error
    assert "the decoder died of this recording" in error
    short = encode(np.zeros(8000, np.float32), FLAC)
    assert service.handle(Request("b", short)).error is None


@pytest.mark.parametrize("value", [-np.inf, 3e38])
def test_a_live_sample_that_is_none_ends_its_stream_alone(service: Backend, value: float) -> None:
    sound = np.zeros(RATE // 10, np.float32)
    bad = sound.copy()
    bad[7] = value
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    jobs = [OpenStream(1), OpenStream(2), PushAudio(1, bad), PushAudio(2, sound)]
    for job in [*jobs, CommitStream(1), CommitStream(2)]:
        service.submit(job, answers.put)
    done = [answers.get(timeout=20) for _ in range(6)]
    errors = {type(each.job).__name__: each.error for each in done if each.job.stream_id == 1}
    assert "the stream's chunk holds" in str(errors["PushAudio"])
    assert "no open stream 1" in str(errors["CommitStream"])
    assert [each.error for each in done if each.job.stream_id == 2] == [None] * 3
