"""The service under test, as a configuration names it: in this process, behind sockets, or foreign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from harness.config.schema import RunConfig
from harness.protocols import Service, ServiceSpec
from harness.protocols.server import ServerPlan
from harness.run.markers import make_recorder
from harness.target.service import TargetService
from harness.workload.remote import RemoteService
from variants import registry


def make_service(config: RunConfig, lengths_s: Sequence[float], warm_up_s: Sequence[float]) -> Service:
    """The service, not yet started. ``lengths_s`` are the audio set's lengths, ``warm_up_s`` those to
    warm a server up with."""
    if config.target.is_foreign:
        return TargetService(config.target)
    if config.io.name != "none":
        return RemoteService(server_plan(config, lengths_s, warm_up_s), config.runner.silence_timeout_s)
    service: Service = registry.load("topology", config.topology.name)(make_spec(config, lengths_s))
    return service


def server_plan(config: RunConfig, lengths_s: Sequence[float], warm_up_s: Sequence[float]) -> ServerPlan:
    """The server of a configuration: one choice of each axis of the serving path."""
    return ServerPlan(
        spec=make_spec(config, lengths_s),
        topology=config.topology.name,
        io=config.io.name,
        io_options=config.io.options,
        gc=config.gc.name,
        gc_options=config.gc.options,
        warm_up_s=tuple(warm_up_s),
    )


def make_spec(config: RunConfig, lengths_s: Sequence[float]) -> ServiceSpec:
    """The parts of the service, to be built in whichever process they run."""
    return registry.service_spec(asdict(config), lengths_s, partial(make_recorder, config.profiler.name))
