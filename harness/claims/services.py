"""Services to test claims on: the real front end or none, and the engine of fixed cost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from harness.errors import HarnessError, InvalidMeasurementError, RequestError
from harness.protocols import Engine, Evidence, Frontend, Reply, Request, SegmentFeatures, ServiceSpec
from harness.spans import SpanRecorder
from variants import registry


@dataclass(frozen=True)
class EngineOptions:
    """The part of a model's options that the engine of fixed cost reads."""

    options: Any


class NoFrontend:
    """For live streams, which bring samples and pass no front end. Recordings are refused."""

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[SegmentFeatures]:  # noqa: ARG002
        raise RequestError(f"a recording of {len(payload)} bytes: this service takes live streams alone")

    @property
    def stages(self) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        return ()


def fixed_cost_engine(**options: Any) -> Engine:
    engine: Engine = registry.load("model", "fixed_cost")(
        EngineOptions(registry.options("model", "fixed_cost", options))
    )
    return engine


def frontend_of(options: Mapping[str, Any]) -> Frontend:
    frontend: Frontend = registry.load("frontend", "host")(registry.options("frontend", "host", options))
    return frontend


def stream_spec(topology_options: Mapping[str, Any], **cost: Any) -> ServiceSpec:
    """A service for live streams alone."""
    return ServiceSpec(NoFrontend, partial(fixed_cost_engine, **cost), options=topology_options)


def recording_spec(ipc: str, frontend: Mapping[str, Any]) -> ServiceSpec:
    """A service for recordings, with the real front end."""
    return ServiceSpec(
        partial(frontend_of, frontend), fixed_cost_engine, ipc={"name": ipc, "options": {}}, options={}
    )


# ---------------------------------------------------------------- one at a time, in a process of its own


@dataclass(frozen=True)
class Served:
    """What a closed loop over some recordings gave: one reply for each, and the service's evidence."""

    replies: tuple[Reply, ...]
    latencies_s: tuple[float, ...]
    evidence: Evidence

    def span_s(self, name: str) -> list[float]:
        """Each request's time under a span's name."""
        return [sum(s.duration_s for s in reply.spans if s.name == name) for reply in self.replies]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(reply.transcript.text if reply.transcript else "" for reply in self.replies)


def serve_closed(
    topology: str, spec: ServiceSpec, payloads: Sequence[bytes], warm_ups: int, timeout_s: float = 900.0
) -> Served:
    """Serve ``payloads`` one after the other in a fresh process, after ``warm_ups`` of the first.

    Raises ``HarnessError`` when the process fails and ``InvalidMeasurementError`` when a request does.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon: the service has processes of its own, which it has to be able to end.
    process = context.Process(target=_serve_closed, args=(topology, spec, payloads, warm_ups, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise HarnessError(f"topology={topology} did not finish within {timeout_s:.0f} s")
        said = ours.recv()
    except EOFError:
        process.join(5.0)
        message = f"topology={topology} ended unexpectedly with exit code {process.exitcode}"
        raise HarnessError(message) from None
    finally:
        process.join(10.0)
        if process.is_alive():
            process.terminate()
            process.join()
    if isinstance(said, BaseException):
        raise said
    served: Served = said
    failed = next((reply.error for reply in served.replies if reply.error), None)
    if failed:
        raise InvalidMeasurementError(f"topology={topology}: a request failed ({failed}); no figure is given")
    return served


def _serve_closed(
    topology: str, spec: ServiceSpec, payloads: Sequence[bytes], warm_ups: int, control: Connection
) -> None:
    try:
        service = registry.load("topology", topology)(spec)
        service.start()
        try:
            for index in range(warm_ups):
                service.handle(Request(f"warm-up {index}", payloads[0]))
            replies = [service.handle(Request(str(index), data)) for index, data in enumerate(payloads)]
            evidence = service.evidence()
        finally:
            service.close()
        latencies_s = tuple((reply.finished_ns - reply.started_ns) * 1e-9 for reply in replies)
        control.send(Served(tuple(replies), latencies_s, evidence))
    except HarnessError as error:
        control.send(error)
    finally:
        control.close()
