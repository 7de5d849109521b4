"""The server under test: the main of its process, from the plan to what it says when it has ended."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
from functools import partial
from multiprocessing.connection import Connection

from harness.protocols.children import peak_rss_bytes, teller, when_closed
from harness.protocols.interrupts import interrupt_on
from harness.protocols.server import CollectorPause, ServerEvidence, ServerPlan
from variants import registry

_GRACE_S = 5.0
"""For what is under way when the parent hangs up; shorter than the parent's own patience."""


def serve(plan: ServerPlan, control: Connection) -> None:
    """The server's process: build, say where, serve until SIGTERM, say what happened. Where the control
    connection closes instead, there is nobody to serve any more."""
    interrupt_on(signal.SIGTERM)  # until there is a server to stop
    when_closed(control, partial(os.kill, os.getpid(), signal.SIGTERM), _GRACE_S)
    policy = registry.make("gc", plan.gc, plan.gc_options)
    backend = registry.load("topology", plan.topology)(plan.spec)
    try:
        backend.start(teller(control))
        backend.warm_up(plan.warm_up_s)
        server = registry.make("io", plan.io, plan.io_options, policy.watch(backend))
        signal.signal(signal.SIGTERM, lambda _signal, _frame: server.stop())
        address = server.bind()
        policy.after_startup()
        control.send(address)
        server.serve()
        evidence = dict(backend.evidence())
        if "gc" in evidence:  # of the inference process, where that is another
            evidence["inference_gc"] = evidence.pop("gc")
        evidence |= {**server.evidence(), **policy.evidence(), "process": _process()}
        pauses = tuple(CollectorPause(p.generation, p.start_ns, p.end_ns) for p in policy.pauses())
        with contextlib.suppress(BrokenPipeError):
            control.send(ServerEvidence(evidence, pauses))
    finally:
        # A large heap is torn down object by object; nothing is gained by collecting on the way.
        gc.disable()
        backend.close()


def _process() -> dict[str, float | int | None]:
    """What the serving process used: CPU seconds and its peak memory."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": peak_rss_bytes()}
