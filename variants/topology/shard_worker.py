"""A worker for shards: a whole service in one process, on whichever machine that is."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.protocols import Reply, Request, ServiceSpec
from harness.protocols.children import peak_rss_bytes
from harness.spans import now_ns
from variants.topology import inprocess
from variants.topology.roles import gc_policy
from variants.topology.shards import Answer

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def clock_name() -> str:
    """Processes with the same name read the same monotonic clock: they run on one machine, since one start
    of it."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


class ShardWorker:
    """Its methods may be called from several threads, once ``start`` has returned."""

    def __init__(self, spec: ServiceSpec, recordings_at_once: int) -> None:
        self._spec = spec
        self._recordings_at_once = recordings_at_once
        self._gc_policy: Any = None
        self._answered = 0

    def start(self, warm_up_s: Sequence[float]) -> None:
        """Build, and visit the shapes of these lengths. Raises what building raises."""
        self._service.start()
        self.warm_up(warm_up_s)
        self._gc_policy = gc_policy(self._spec.gc)

    def warm_up(self, lengths_s: Sequence[float]) -> None:
        if lengths_s:
            self._service.warm_up(lengths_s)

    def run(self, requests: Sequence[Request]) -> Answer:
        """All side by side, as clients of a service have it; what of them fails is in their replies."""
        began_ns = now_ns()

        def serve(request: Request) -> Reply:
            return self._service.serve(request, began_ns)

        replies = list(self._threads.map(serve, requests))
        self._answered += len(replies)
        return Answer(replies, began_ns, now_ns(), self._clock)

    def evidence(self) -> dict[str, Any]:
        collector = {} if self._gc_policy is None else dict(self._gc_policy.evidence())
        who = {"host": socket.gethostname(), "pid": os.getpid(), "rss_bytes": peak_rss_bytes()}
        return {**self._service.evidence(), **collector, "worker": {**who, "recordings": self._answered}}

    @cached_property
    def _service(self) -> inprocess.InProcess:
        return inprocess.build(replace(self._spec, options={}))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._recordings_at_once, thread_name_prefix="shard")

    @cached_property
    def _clock(self) -> str:
        return clock_name()
