"""Whole services as actors of Ray, on one machine or several, behind one offline workload.

A topology, because it says where a request is served and by how many, which is this axis: recordings cross
to the actors in shards (``variants.topology.shards``), each actor is ``topology=inprocess`` with the choices
of the other axes, and the workload, its journal, resuming, reports and parity are those of every offline run.
Recordings are read here and their bytes sent, so that no file system has to be shared; this code, and weights
that are given as a path, have to be on every machine.

Times. The wall time of the run is this process's. The spans of a worker on this machine are on the same clock
and lie where they were; the way there and back is ``ipc``. Another machine's clock says durations alone: what
was done there is put in the middle of the time from handing out to hearing, and the rest is unaccounted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from harness.errors import UnavailableError
from harness.protocols import BuildProgress, Evidence, Reply, Request, ServiceSpec, silent
from harness.protocols.options import Positive
from harness.spans import Span, now_ns
from variants import registry
from variants.topology.ray_fleet import Cluster, RayFleet
from variants.topology.shard_worker import clock_name
from variants.topology.shards import Answer, Served, Shards

_EVIDENCE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    inference_workers: Positive = 2
    """Actors, each with a whole service; Ray decides on which machine."""
    address: str = ""
    """Of a running cluster: HOST:PORT, or auto. Empty: one starts on this machine and ends with the run."""
    shard: Positive = 8
    """Recordings of a shard, at most. To fill them, ``workload.options.in_flight`` has to be above
    ``inference_workers`` x ``shard`` x ``shards_at_once``."""
    shards_at_once: Positive = 2
    """Shards that an actor has at once: one waits there while another is answered."""
    attempts: Positive = 2
    """How often a recording may kill or stop a worker that does nothing else, before its row says so."""
    cpus_per_worker: Positive = 1
    """Of Ray's resource CPU."""
    gpus_per_worker: Annotated[float, Meta(ge=0)] = 1.0
    """Of Ray's resource GPU, where the cluster has any."""


def build(spec: ServiceSpec) -> OnRay:
    return OnRay(spec, registry.options("topology", "ray", spec.options))


class OnRay:
    """See ``harness.protocols.Service``."""

    def __init__(self, spec: ServiceSpec, options: Options) -> None:
        self._spec = spec
        self._options = options
        self._cluster: Cluster | None = None
        self._fleet: RayFleet | None = None
        self._shards: Shards | None = None
        self._clock = clock_name()
        self._batch_ids: dict[tuple[int, int], int] = {}
        self._batch_numbers = itertools.count(1)

    def start(self, progress: BuildProgress = silent) -> None:
        options, places = self._options, self._options.inference_workers
        progress("Ray")
        self._cluster = Cluster(options.address, places * options.cpus_per_worker)
        resources = self._resources(self._cluster)
        self._fleet = RayFleet(self._cluster, self._spec, options.shard, options.shards_at_once, resources)
        progress("a service in each worker", 0, places)
        self._fleet.start(places, lambda ready: progress("a service in each worker", ready, places))
        self._shards = Shards(self._fleet, places, options.shard, options.shards_at_once, options.attempts)

    def _resources(self, cluster: Cluster) -> dict[str, float]:
        """Of each worker. Raises ``UnavailableError`` where the cluster has not enough for all: they would
        wait for it forever."""
        gpus = self._options.gpus_per_worker if cluster.resource("GPU") else 0.0
        each = {"CPU": float(self._options.cpus_per_worker), "GPU": gpus}
        for name, amount in each.items():
            wanted, there = amount * self._options.inference_workers, cluster.resource(name)
            if wanted > there:
                raise UnavailableError(
                    f"topology.options.inference_workers={self._options.inference_workers}: they need "
                    f"{wanted:g} {name} of Ray, and the cluster has {there:g}; name fewer, or lower "
                    f"topology.options.{name.lower()}s_per_worker"
                )
        return {"num_cpus": each["CPU"], "num_gpus": gpus}

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        fleet, _ = self._parts()
        fleet.warm_up(list(lengths_s))

    def handle(self, request: Request) -> Reply:
        _, shards = self._parts()
        entered_ns = now_ns()
        served = shards.handle(request)
        reply = arrived(served, entered_ns, now_ns(), self._clock)
        return replace(reply, batch_id=self._batch_id(served.worker, reply.batch_id))

    def _batch_id(self, worker: int, batch_id: int) -> int:
        """Each worker counts its own batches; here they are those of one service."""
        if not batch_id:
            return 0
        return self._batch_ids.setdefault((worker, batch_id), next(self._batch_numbers))

    def evidence(self) -> Evidence:
        if self._cluster is None or self._fleet is None or self._shards is None:
            return {"topology": {}, "engine": {}}
        told = self._fleet.evidence(_EVIDENCE_TIMEOUT_S)
        done = self._shards.evidence()
        topology = {
            "name": "ray",
            "processes": 1 + len(told),
            "hops_per_request": 1,
            "ray": self._cluster.evidence(),
            **done,
            "workers": [
                {"name": f"inference{place}", **each["worker"], "weights_hash": _weights(each)}
                for place, each in enumerate(told)
            ],
        }
        why = _not_engaged(self._options.inference_workers, done, told)
        first: Mapping[str, Any] = told[0] if told else {}
        kept = {key: value for key, value in first.items() if key not in ("topology", "worker")}
        return {"engine": {}, **kept, "topology": {**topology, "not_engaged": why} if why else topology}

    def close(self) -> None:
        if self._shards is not None:
            self._shards.close()
        if self._cluster is not None:
            self._cluster.close()

    def _parts(self) -> tuple[RayFleet, Shards]:
        if self._fleet is None or self._shards is None:
            raise RuntimeError("start() the service before use")
        return self._fleet, self._shards


def _weights(evidence: Mapping[str, Any]) -> str:
    return str(evidence.get("engine", {}).get("model", {}).get("weights_hash", ""))


def _not_engaged(places: int, done: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> str | None:
    busy = sum(count > 0 for count in done["recordings_by_worker"])
    hashes = {_weights(each) for each in told}
    if busy < places:
        return f"{busy} of {places} workers answered anything; transcribe more recordings, or start fewer"
    if len(hashes) > 1:
        return f"the workers built different weights ({', '.join(sorted(hashes))})"
    return None


def arrived(served: Served, entered_ns: int, woken_ns: int, clock: str) -> Reply:
    """The reply as its caller has it, from ``entered_ns`` to ``woken_ns``; ``clock`` is this process's."""
    answer = served.answer
    if answer is None:
        spans = [Span("queue", entered_ns, woken_ns)]
    else:
        way = _way if answer.clock == clock else _moved
        queue = (Span("queue", entered_ns, served.handed_ns), Span("queue", served.heard_ns, woken_ns))
        spans = [*queue, *way(served, answer)]
    return replace(served.reply, spans=tuple(spans), started_ns=entered_ns, finished_ns=woken_ns)


def _way(served: Served, answer: Answer) -> Iterator[Span]:
    """On one clock. ``reply`` is the wait until the rest of the shard is answered."""
    yield Span("ipc", served.handed_ns, answer.began_ns)
    yield from served.reply.spans
    yield Span("reply", served.reply.finished_ns, answer.ended_ns)
    yield Span("ipc", answer.ended_ns, served.heard_ns)


def _moved(served: Served, answer: Answer) -> Iterator[Span]:
    """From another machine's clock, which says durations alone."""
    shift_ns = (served.handed_ns + served.heard_ns - answer.began_ns - answer.ended_ns) // 2
    for name, start_ns, end_ns in (
        *served.reply.spans,
        Span("reply", served.reply.finished_ns, answer.ended_ns),
    ):
        yield Span(name, start_ns + shift_ns, end_ns + shift_ns)
