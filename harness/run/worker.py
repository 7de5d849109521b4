"""One measured process: build the service, warm it up, drive it, journal every request.

Started by the launcher (``harness.run.process``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.config.load import from_dict
from harness.config.schema import RunConfig
from harness.corpus.manifest import AudioItem
from harness.errors import ExitCode, HarnessError, RequestError
from harness.measure.cpu import CpuMeter
from harness.measure.energy import EnergyMeter
from harness.measure.memory import GpuMeter, peak_memory
from harness.measure.telemetry import GpuSampler, sample_gpu
from harness.nvml import open_nvml
from harness.protocols import Request, Service
from harness.protocols.children import when_closed
from harness.protocols.interrupts import interrupt_on
from harness.protocols.options import convert
from harness.record import MEASURED, WARMUP, GcPauses, Journal, Memory, ProcessRecord, Telemetry
from harness.run.job import Job
from harness.run.messages import Reporter
from harness.run.offline import Tally, done_before
from harness.run.rates import RateStep, search_rate
from harness.run.samples import to_sample
from harness.run.service import make_service
from harness.run.streams import StreamRun, write_chunks, write_streams
from harness.run.tracing import traced
from harness.run.turns import Turns
from harness.run.warmup import WarmupReport, warm_up
from harness.spans import now_ns
from harness.workload.loops import Completed, OnCompleted, closed_loop, offline_loop, open_loop
from harness.workload.options import OfflineOptions, OpenOptions
from harness.workload.remote import RemoteService
from harness.workload.schedule import arrival_offsets_s, order, taken_up
from harness.workload.streaming import StreamingResult, StreamsInterrupted
from variants import registry

_GRACE_S = 12.0
"""For closing when the launcher hangs up; shorter than the launcher's own patience."""
_UNEXPECTED = "take expect_failure out of the manifest, or see why it is accepted"


def main(job: Job, control: Connection) -> int:
    """Run one job; what goes wrong reaches the launcher with the exit code it stands for."""
    interrupt_on(signal.SIGTERM)
    main_thread = threading.get_ident()
    when_closed(control, lambda: signal.pthread_kill(main_thread, signal.SIGTERM), _GRACE_S)
    reporter = Reporter(control)
    return _run(Worker(job, reporter, Turns(control, reporter, job.alone)), reporter)


def _run(worker: Worker, reporter: Reporter) -> int:
    try:
        worker.run()
    except HarnessError as error:
        reporter.error(str(error), error.exit_code)
        return int(error.exit_code)
    except Exception as error:
        traceback.print_exc()
        reporter.error(f"{type(error).__name__}: {error}", ExitCode.INTERNAL)
        return int(ExitCode.INTERNAL)
    return int(ExitCode.DONE)


class Worker:
    """The state of one job: the service, the recordings, and the journal of what was served."""

    def __init__(self, job: Job, reporter: Reporter, turns: Turns) -> None:
        self._job = job
        self._reporter = reporter
        self._turns = turns
        self._config: RunConfig = from_dict(job.config)
        self._audio = job.audio()
        self._record = ProcessRecord(
            index=job.process,
            pid=os.getpid(),
            started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            epoch_ns=now_ns(),
            block=job.block,
        )
        self._devices = self._config.topology.devices_used
        self._items: list[AudioItem] = []
        self._unreadable: dict[str, str] = {}
        self._meter = GpuMeter(None)
        self._nvml: Any | None = None
        self._search: dict[str, Any] = {}
        self._startup: dict[str, float] = {}

    def run(self) -> None:
        """Do the job. The journal holds each request as soon as it is answered."""
        self._import_model()
        self._turns.take()
        with open_nvml() as nvml, Journal(Path(self._job.folder), self._record) as journal:
            self._nvml, self._meter = nvml, GpuMeter(nvml, self._job.alone, self._devices)
            self._meter.resume()
            if self._job.role == "reference":
                self._transcribe_all(journal)
            elif self._config.workload.mode == "streaming":
                self._stream(journal)
            else:
                self._serve_recordings(journal)

    def _import_model(self) -> None:
        """Before this process has its turn: it measures nothing yet, and neither does one that builds.
        Processes that the service starts import for themselves. What it takes is told in seconds of a core:
        those that take turns import at the same time."""
        if self._serves_itself:
            self._reporter.stage("importing")
            with self._timed("import_cpu_s", time.process_time):
                registry.preload("model", self._config.model.name)

    @contextlib.contextmanager
    def _timed(self, step: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """A step on the way to the first request, for the evidence."""
        start_s = clock()
        yield
        self._startup[step] = clock() - start_s

    def _transcribe_all(self, journal: Journal) -> None:
        """Every recording once, for its text; offline, where there may be thousands, some of them."""
        if self._config.workload.mode == "streaming":
            for row in self._streams().reference(self._record, self._reporter):
                journal.append(row)
            journal.finish(self._record)
            return
        with self._service() as service:
            items = self._compared()
            self._reporter.stage("reference output", len(items))
            for index, item in enumerate(items):
                reply = service.handle(self._request(item))
                sent = Completed(index, reply.started_ns, reply.started_ns, reply)
                self._keep(journal, sent, item, MEASURED)
                self._reporter.progress(index + 1)
            journal.finish(replace(self._record, evidence=dict(service.evidence())))

    def _compared(self) -> list[AudioItem]:
        items = list(self._audio.items)
        if self._config.workload.mode != "offline":
            return items
        return order(items, min(self._offline.compared, len(items)), self._config.workload.seed)

    def _serve_recordings(self, journal: Journal) -> None:
        """Warm up, apply the collector's policy, drive the workload."""
        with self._service() as service:
            report = self._warm_up(service, journal)
            policy = self._gc_policy()
            measured_from_ns = now_ns()
            with (
                sample_gpu(self._record.epoch_ns, chosen=self._devices) as sampler,
                traced(self._config, self._job.trace),
            ):
                elsewhere = self._config.topology.is_elsewhere
                meter, energy = CpuMeter(), EnergyMeter(self._nvml, self._devices)
                self._measure(service, journal)
                self._record = replace(self._record, cpu=None if elsewhere else meter.read())
                energy_j = energy.read_j()
            telemetry = self._telemetry(sampler)
            memory = self._memory(service, telemetry)  # asking a server for evidence ends it
            evidence: dict[str, Any] = {
                **service.evidence(),
                "startup": {**self._startup, "total_s": sum(self._startup.values())},
                "warmup": asdict(report),
                "energy_j": energy_j,
            }
            pauses: Iterable[Any] = ()
            if self._search:
                evidence["search"] = self._search
            if policy is not None:
                evidence.update(policy.evidence())
                pauses = policy.pauses()
            elif isinstance(service, RemoteService):
                pauses = service.pauses()
            self._finish(journal, evidence, memory, telemetry, _pauses(pauses, measured_from_ns))

    def _memory(self, service: Service, telemetry: tuple[Telemetry, ...]) -> Memory:
        """Of the processes that serve: those of a foreign server, and of other machines, are out of sight."""
        if self._config.target.is_foreign or self._config.topology.is_elsewhere:
            return Memory(rss_bytes=None)
        pid = service.pid if isinstance(service, RemoteService) else None
        return peak_memory(pid, telemetry, self._meter)

    def _stream(self, journal: Journal) -> None:
        """Live streams from clients in processes of their own."""
        streams = self._streams()
        self._tell_of_refused(streams.refused)
        with sample_gpu(self._record.epoch_ns, chosen=self._devices) as sampler:

            def memory_of(pid: int) -> Memory:
                return peak_memory(pid, sampler.result(), self._meter)

            try:
                outcome = streams.measure(self._reporter, memory_of)
            except StreamsInterrupted as stopped:
                self._keep_streams(streams, stopped.result, journal)
                raise
        self._keep_streams(streams, outcome.result, journal)
        evidence = {**outcome.server.evidence, "streaming": outcome.figures}
        pauses = _pauses(outcome.server.pauses, outcome.result.start_ns)
        self._finish(journal, evidence, outcome.memory, self._telemetry(sampler), pauses)

    def _telemetry(self, sampler: GpuSampler) -> tuple[Telemetry, ...]:
        if sampler.failure is not None:
            self._reporter.warning(f"the GPU's clocks, power and heat were not read: {sampler.failure}")
        return sampler.result()

    def _keep_streams(self, streams: StreamRun, result: StreamingResult, journal: Journal) -> None:
        for row in streams.rows(result, self._record):
            journal.append(row)
        folder, number = Path(self._job.folder), self._record.index
        write_chunks(result, folder / f"chunks-{number}.parquet")
        write_streams(result, folder / f"streams-{number}.parquet")

    def _streams(self) -> StreamRun:
        return StreamRun(self._config, self._audio, self._lengths_s, self._shapes_s(), self._seed)

    def _tell_of_refused(self, refused: Mapping[str, str]) -> None:
        """Recordings that no client can speak are in no figure."""
        for item in self._audio.items:
            why = refused.get(item.item_id)
            if why is not None and not item.expect_failure:
                self._reporter.warning(f"{item.item_id} was not streamed: {why}")
            elif why is None and item.expect_failure:
                self._reporter.warning(f"{item.item_id} was to fail and was streamed: {_UNEXPECTED}")

    def _finish(
        self,
        journal: Journal,
        evidence: Mapping[str, Any],
        memory: Memory,
        telemetry: tuple[Telemetry, ...],
        pauses: GcPauses,
    ) -> None:
        journal.finish(
            replace(self._record, memory=memory, telemetry=telemetry, gc=pauses, evidence=evidence)
        )

    @contextlib.contextmanager
    def _service(self) -> Iterator[Service]:
        if not self._config.target.is_foreign:
            self._reporter.stage(
                f"building {self._config.model.label} ({self._config.model.weights} weights)"
            )
        service = make_service(self._config, self._lengths_s, self._shapes_s())
        try:
            with self._timed("build_s"):
                service.start(self._reporter.building)
            yield service
        finally:
            service.close()

    @property
    def _serves_itself(self) -> bool:
        foreign = self._config.target.is_foreign
        return not foreign and self._config.topology.name == "inprocess" and self._config.io.name == "none"

    @property
    def _lengths_s(self) -> list[float]:
        return [item.duration_s for item in self._audio.items if item.duration_s]

    @property
    def _seed(self) -> int:
        """A seed of this process's own, the same in every run of the same workload."""
        return self._config.workload.seed * 1000 + self._record.index

    def _warm_up(self, service: Service, journal: Journal) -> WarmupReport:
        self._reporter.stage("warming up")
        with self._timed("warm_up_s"):
            service.warm_up(self._shapes_s())
        first = {item.bucket: item for item in reversed(self._audio.items)}
        rules = self._config.runner.warmup
        count = 0

        def serve(item: AudioItem) -> float:
            nonlocal count
            reply = service.handle(self._request(item))
            sent = Completed(count, reply.started_ns, reply.started_ns, reply)
            self._keep(journal, sent, item, WARMUP)
            count += 1
            return (reply.finished_ns - reply.started_ns) * 1e-9

        if rules.every_recording:
            self._reporter.stage("warming up with every recording", len(self._audio.items))
            for index, item in enumerate(self._audio.items):
                serve(item)
                self._reporter.progress(index + 1)
            self._reporter.stage("warming up")
        report = warm_up(lambda bucket: serve(first[bucket]), sorted(first), rules)
        if not report.steady:
            self._reporter.warning(
                f"process {self._record.index} was not steady after {report.passes} warm-up passes: "
                "close other programs, or raise runner.warmup.max_passes"
            )
        return report

    def _shapes_s(self) -> list[float]:
        """The bucket edges that this set's recordings can reach: no time for shapes nobody sends."""
        edges = list(self._config.model.buckets_s)
        longest_s = max((item.duration_s or 0.0 for item in self._audio.items), default=0.0)
        reached = [edge for edge, below in zip(edges, [0.0, *edges], strict=False) if below < longest_s]
        return reached or edges[:1]

    def _gc_policy(self) -> Any:
        """Apply the collector's policy to this process where the service itself lives in it."""
        if not self._serves_itself:
            return None
        gc = self._config.gc
        policy = registry.make("gc", gc.name, gc.options)
        policy.after_startup()
        return policy

    def _measure(self, service: Service, journal: Journal) -> None:
        workload = self._config.workload
        if workload.mode == "offline":
            self._measure_offline(service, journal)
            return
        self._items = order(self._audio.items, workload.requests, self._seed)
        self._reporter.stage("measuring", workload.requests)

        def on_completed(done: Completed) -> None:
            self._keep(journal, done, self._items[done.index], MEASURED)
            self._reporter.progress(done.index + 1)

        if workload.mode == "open":
            rate_per_s = self._searched_rate(service) or workload.rate_per_s
            self._reporter.stage(f"measuring {rate_per_s:g} arrivals a second", workload.requests)
            self._arrive(service, rate_per_s, on_completed)
        else:
            size = self._config.runner.turn_requests
            shares = self._turns.shares(workload.requests, size, self._meter)
            closed_loop(service, self._fetch, shares, on_completed, workload.clients)

    @property
    def _offline(self) -> OfflineOptions:
        return convert(OfflineOptions, self._config.workload.options)

    def _measure_offline(self, service: Service, journal: Journal) -> None:
        self._items = list(self._audio.items)
        before = done_before(self._job.stopped, self._record.index)
        for row in before:
            journal.adopt({**row, "process": self._record.index})
        done = {row["index"] for row in before}
        lengths_s = [item.duration_s or 0.0 for item in self._items]
        left = [index for index in taken_up(lengths_s, self._offline.order) if index not in done]
        if done:
            self._reporter.warning(
                f"process {self._record.index} went on with a run that was stopped: {len(done)} of "
                f"{len(self._items)} recordings are that run's, and its time is added to this one's"
            )
        self._reporter.stage("transcribing", len(self._items))
        tally = Tally(self._reporter, len(done))

        def on_completed(completed: Completed) -> None:
            self._keep(journal, completed, self._items[completed.index], MEASURED)
            tally.add(lengths_s[completed.index])

        offline_loop(service, self._fetch, left, self._offline.in_flight, on_completed)

    def _arrive(self, service: Service, rate_per_s: float, on_completed: OnCompleted) -> None:
        workload = self._config.workload
        offsets = arrival_offsets_s(workload.requests, rate_per_s, workload.arrivals, self._seed)
        open_loop(service, self._fetch, offsets.tolist(), workload.clients, on_completed)

    def _searched_rate(self, service: Service) -> float | None:
        workload = self._config.workload
        if workload.search == "none":
            return None

        def drive(rate_per_s: float) -> list[Completed]:
            self._reporter.stage(f"searching: {rate_per_s:g} arrivals a second")
            completed: list[Completed] = []
            self._arrive(service, rate_per_s, completed.append)
            return completed

        def told(step: RateStep) -> None:
            self._reporter.stage(f"{step.rate_per_s:g} a second {'pass' if step.passed else 'fail'}")

        options = convert(OpenOptions, workload.options)
        found, self._search = search_rate(drive, options, workload.rate_per_s, workload.lag_budget_s, told)
        return found

    def _fetch(self, index: int) -> Request:
        return self._request(self._items[index])

    def _request(self, item: AudioItem) -> Request:
        """The recording's bytes. One that cannot be read is sent empty, and its row says why."""
        try:
            return Request(item.item_id, item.read())
        except RequestError as error:
            self._unreadable[item.item_id] = str(error)
            return Request(item.item_id, b"")

    def _keep(self, journal: Journal, done: Completed, item: AudioItem, phase: str) -> None:
        sample = to_sample(done, item, self._record, phase)
        why = self._unreadable.get(item.item_id)
        journal.append(sample if why is None else replace(sample, error=why))


def _pauses(pauses: Iterable[Any], since_ns: int) -> GcPauses:
    """The collector's pauses (``generation``, ``start_ns``, ``end_ns``) while requests were measured."""
    while_measured = [pause for pause in pauses if pause.start_ns >= since_ns]
    seconds = [(pause.end_ns - pause.start_ns) * 1e-9 for pause in while_measured]
    generations = [pause.generation for pause in while_measured]
    counts = tuple(generations.count(generation) for generation in range(max(generations, default=-1) + 1))
    return GcPauses(len(seconds), sum(seconds), max(seconds, default=0.0), counts)
