"""The trained model behind several processes answers token for token what it answers in one."""

from __future__ import annotations

import dataclasses

import pytest

from harness.config.load import compose_run
from harness.corpus.encode import encode
from harness.corpus.speech import Voice, speak
from harness.protocols import Reply, Request
from harness.run.service import make_spec
from tests.variants.topology import parts


def replies_of(topology: str, ipc: str, payloads: list[bytes]) -> list[Reply]:
    config = compose_run(["model=parakeet_tiny", "runner.threads=1", f"topology={topology}", f"ipc={ipc}"])
    spec = dataclasses.replace(make_spec(config, [2.0, 7.0]), gc={})
    service = parts.TOPOLOGIES[topology].build(spec)
    service.start()
    try:
        return [service.handle(Request(str(index), payload)) for index, payload in enumerate(payloads)]
    finally:
        service.close()


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["collapsed", "microservices"])
def test_the_same_tokens(topology: str) -> None:
    speech = [
        speak(text, Voice("en-us")) for text in ("turn on the light", "what is the weather like tomorrow")
    ]
    containers = (("wav", 16_000, 1), ("flac", 44_100, 2))
    payloads = [encode(audio, *kind, None) for audio, kind in zip(speech, containers, strict=True)]
    expected = replies_of("inprocess", "none", payloads)
    assert all(reply.transcript and reply.transcript.text for reply in expected)
    got = replies_of(topology, "shared_memory", payloads)
    assert [reply.transcript for reply in got] == [reply.transcript for reply in expected]
