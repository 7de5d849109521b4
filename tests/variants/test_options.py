"""Options of the choices, through the registry: the same refusals on every axis."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from harness.errors import UnavailableError, UsageError
from variants import registry


@pytest.mark.parametrize(
    ("axis", "name", "given", "message"),
    [
        ("io", "epoll", {"port": "abc"}, r"io\.options\.port='abc' has to be a whole number"),
        ("io", "epoll", {"loop": "uvloop"}, r"io\.options\.loop: no such key"),
        ("io", "epoll", {"thread_stack_bytes": 1}, r"io\.options\.thread_stack_bytes: no such key"),
        ("io", "threads", {"transport": "udp"}, r"io\.options\.transport='udp' has to be unix or tcp"),
        ("io", "threads", {"idle_timeout_s": -1.0}, r"io\.options\.idle_timeout_s"),
        ("io", "asyncio_loop", {"loop": "gevent"}, r"io\.options\.loop='gevent'"),
        ("io", "asyncio_loop", {"high_watermark": 1}, "did you mean io.options.high_water_bytes"),
        ("ipc", "carrier_pigeon", {}, "ipc.name=carrier_pigeon: there is no module"),
        ("ipc", "../../etc", {}, "is not the name of a choice"),
        ("ipc", "uds_copy", {"colour": 1}, r"ipc\.options\.colour: no such key; there are connect_timeout_s"),
        ("ipc", "shared_memory", {"slot_kb": 3}, r"ipc\.options\.slot_kb=3 has to be a multiple of 4"),
        ("ipc", "shared_memory", {"capacity_mb": 1, "slot_kb": 2048}, r"fit ipc\.options\.capacity_mb=1"),
        ("topology", "inprocess", {"max_pending": 0}, r"topology\.options\.max_pending=0"),
        ("topology", "inprocess", {"worker": "nobody"}, r"topology\.options\.worker='nobody'"),
        ("topology", "collapsed", {"frontend_workers": -1}, "frontend_workers=-1 .* at least 0"),
        ("topology", "microservices", {"frontend_workers": 2}, "frontend_workers: no such key"),
        ("gc", "frozen", {"objects": -1}, r"gc\.options\.objects=-1"),
        ("gc", "default", {"words": 1}, r"gc\.options\.words: no such key"),
        ("model", "fixed_cost", {"method": "busy"}, r"model\.options\.method='busy' has to be sleep or spin"),
        ("model", "parakeet_tiny", {"look_ahead": 1}, r"model\.options\.look_ahead: no such key"),
        ("model", "parakeet_tiny", {"chunk_s": 0.0}, r"model\.options\.chunk_s=0\.0 .* above 0"),
        ("encoder", "eager", {"flash": True}, r"encoder\.options\.flash: no such key; there are no options"),
        ("encoder", "compiled", {"bakend": "graph"}, "did you mean encoder.options.backend"),
        ("encoder", "compiled", {"backend": "cudnn"}, r"encoder\.options\.backend='cudnn'"),
        ("encoder", "compiled", {"backend": "best", "candidates": ["graph", "cudnn"]}, "candidates"),
        ("encoder", "compiled", {"backend": "best", "candidates": []}, "candidates"),
        ("encoder", "compiled", {"longest_s": 0.0}, r"encoder\.options\.longest_s"),
        ("encoder", "compiled", {"token_agreement": 1.5}, r"encoder\.options\.token_agreement"),
        ("encoder", "compiled", {"batches": [0]}, r"encoder\.options\.batches"),
        ("encoder", "single_profile", {"profiles": 2}, r"encoder\.options\.profiles: no such key"),
        ("encoder", "multi_profile", {"profiles": 0}, r"encoder\.options\.profiles=0"),
        ("encoder", "multi_profile", {"optimization_level": 6}, r"encoder\.options\.optimization_level=6"),
        ("encoder", "multi_profile", {"cuda_graphs": 1}, r"encoder\.options\.cuda_graphs=1"),
        ("decoder", "cpu_synced", {"beam": 4}, r"decoder\.options\.beam: no such key; there are no options"),
        ("decoder", "nemo", {"mode": "fast"}, r"decoder\.options\.mode='fast' has to be full_graph"),
        (
            "decoder",
            "conditional_graph",
            {"speed": 2},
            r"decoder\.options\.speed: no such key; there are slots",
        ),
        ("decoder", "megakernel", {"slots": 0}, r"decoder\.options\.slots=0"),
        ("decoder", "megakernel", {"lookahead": 3}, r"decoder\.options\.lookahead=3 has to be 1, 2, 4 or 8"),
        ("batching", "alone", {"most": 3}, r"batching\.options\.most: no such key"),
        ("frontend", "host", {"vad": "whisper"}, r"frontend\.vad=whisper must be one of"),
        ("frontend", "host", {"segment": {"threshhold": 1}}, "did you mean frontend.segment.threshold"),
    ],
)
def test_a_mistake_is_named_by_its_full_key(
    axis: str, name: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        registry.options(axis, name, given)


def test_a_package_that_is_missing_makes_the_choice_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delitem(sys.modules, "variants.io.asyncio_loop", raising=False)
    with pytest.raises(UnavailableError, match=r"io=asyncio_loop: .*'uvloop' is not installed"):
        registry.options("io", "asyncio_loop", {})
