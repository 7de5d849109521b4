"""The life of one run: prepared, its processes launched one by one, judged, written.

Comparisons interleave the processes of several sessions (A B B A); a plain run launches its own
in a row.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.config.load import compose_run, to_dict
from harness.config.rules import check
from harness.config.schema import RunConfig, TargetConfig
from harness.config.schema import Tolerance as ConfiguredTolerance
from harness.corpus.manifest import AudioSet
from harness.errors import HarnessError
from harness.protocols.interrupts import uninterrupted
from harness.record import (
    Dataset,
    Mode,
    Model,
    ProcessRecord,
    Provenance,
    Run,
    RunWriter,
    Status,
    StoredRun,
    Tolerance,
    content_hash,
    find_finished,
    find_stopped,
    new_run_id,
    read_run,
)
from harness.run import provenance
from harness.run.audio_set import audio_set_of
from harness.run.job import Job, write_audio_set
from harness.run.judge import judge
from harness.run.process import Launch, run_jobs
from harness.run.progress import Progress
from harness.run.tracing import nsys_command
from harness.same_ground import comparability_of, is_foreign
from harness.target.address import stated_url, without_secrets
from variants import registry

#: Keys that say where a run is kept, not what it measures.
_NOT_CONTENT = ("results_dir", "cache_dir", "resume", "label", "silence_timeout_s")


class RunSession:
    """One run. Use as a context manager: whatever ends the block early leaves a record of it."""

    def __init__(self, config: RunConfig, overrides: Sequence[str], series: str | None = None) -> None:
        """Check ``config`` and render its audio set. Launches nothing, writes no results yet."""
        check(config)
        self.config = config
        self.audio = audio_set_of(config)
        self.overrides = _stated(overrides, config.target)
        self._series = series
        self._warnings = list(self.audio.warnings)
        self._writer: RunWriter | None = None
        self._stopped: Path | None = None
        self._origin = self._provenance()
        self.content_hash = content_hash(_content(config, self._origin))

    def finished(self) -> StoredRun | None:
        """An earlier complete run of the same content, if there is one."""
        folder = find_finished(Path(self.config.runner.results_dir), self.content_hash)
        return read_run(folder) if folder else None

    def go_on(self) -> None:
        """Take over what an offline run of the same content had done when it was stopped, if there is one."""
        if self.config.workload.mode == "offline":
            self._stopped = find_stopped(Path(self.config.runner.results_dir), self.content_hash)

    def __enter__(self) -> RunSession:
        now = datetime.now(UTC)
        label = f"-{self.config.runner.label}" if self.config.runner.label else ""
        run = Run(
            run_id=new_run_id(self.config.variant + label, now),
            created_utc=now.isoformat(timespec="seconds"),
            mode=Mode(self.config.workload.mode),
            variant=self.config.variant,
            config=_written(self.config),
            provenance=self._origin,
            comparability=comparability_of(_written(self.config), self._origin),
            content_hash=self.content_hash,
            profiled=self.config.profiler.name != "none",
            series=self._series,
            overrides=self.overrides,
            tolerance=_tolerance(self.config),
        )
        self._writer = RunWriter.open(Path(self.config.runner.results_dir), run)
        self._audio_file = write_audio_set(self.audio, self._writer.folder / "audio_set.pickle")
        return self

    def measure(self, process: int, block: int | None = None) -> None:
        """Launch measured process number ``process`` and wait for it."""
        self._run(self.config, "measured", process, block, self._open.folder)

    def reference(self, of_others: Sequence[RunSession] = ()) -> None:
        """Transcribe the set once with the eager reference, for its output.

        A session among ``of_others`` with the same model, front end and recordings, measured in the
        same series, has the same reference: its output is taken over instead. Where that session is
        the eager reference itself, what it answers while it is measured is; see ``take_answers``.
        """
        folder = self._open.folder / "reference"
        if not self._needs_reference or self._measured_reference(of_others) or folder.is_dir():
            return
        twin = next((other for other in of_others if self._shares_reference(other)), None)
        if twin is not None:
            shutil.copytree(twin._open.folder / "reference", folder)
            return
        folder.mkdir()
        self._run(as_reference(self.config), "reference", 0, None, folder)

    def take_answers(self, of_others: Sequence[RunSession]) -> None:
        """Once each has been measured and none is finished: the answers of the eager session's first
        process, if there is one among ``of_others``, become this run's reference."""
        source = self._measured_reference(of_others) if self._needs_reference else None
        folder = self._open.folder / "reference"
        if source is not None and not folder.is_dir():
            folder.mkdir()
            shutil.copy(source._open.folder / "process-0.jsonl", folder)

    @property
    def _needs_reference(self) -> bool:
        """A foreign server is held to the transcripts (``target.max_wer``)."""
        foreign = self.config.target.is_foreign
        return self.config.runner.reference and not foreign and not is_reference(self.config)

    def _measured_reference(self, of_others: Sequence[RunSession]) -> RunSession | None:
        """An eager session that is sent every recording of this one's."""
        return next(
            (
                other
                for other in of_others
                if is_reference(other.config) and self._asks_the_same(other) and _asks_all(other)
            ),
            None,
        )

    def _shares_reference(self, other: RunSession) -> bool:
        has_one = other is not self and (other._open.folder / "reference").is_dir()
        return has_one and self._asks_the_same(other)

    def _asks_the_same(self, other: RunSession) -> bool:
        mine, its = as_reference(self.config), as_reference(other.config)
        same_audio = self.audio.content_hash == other.audio.content_hash
        same_parts = (mine.model, mine.frontend, _heard(mine)) == (its.model, its.frontend, _heard(its))
        return same_parts and same_audio

    def finish(self) -> StoredRun:
        """Merge, judge and write the run."""
        writer, judged = self._open, self.so_far().run
        with uninterrupted():
            self._audio_file.unlink()
            self._writer = None
            return writer.finish(judged)

    def so_far(self) -> StoredRun:
        """Merged and judged as if the run ended now; it goes on."""
        writer = self._open
        merged = writer.merge()
        config = self._as_measured(len(merged.processes))
        run = replace(
            writer.run,
            status=Status.COMPLETE,
            processes=merged.processes,
            config=_written(config),
            content_hash=content_hash(_content(config, self._origin)),
        )
        run = _with_model(run, merged.processes)
        judged = judge(run, merged.samples, writer.folder, self._warnings, is_reference(self.config))
        return StoredRun(judged, merged.samples, writer.folder)

    def _as_measured(self, processes: int) -> RunConfig:
        """Who interleaves decides how many processes there are."""
        return replace(self.config, runner=replace(self.config.runner, processes=processes))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with uninterrupted():
                self.abandon(error)

    def abandon(self, error: BaseException | None) -> None:
        """Write what was measured until ``error`` as the record of a run that ended early."""
        writer, self._writer = self._open, None
        status = Status.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Status.FAILED
        self._audio_file.unlink(missing_ok=True)
        merged = writer.merge()
        run = replace(writer.run, status=status, processes=merged.processes)
        warnings = [f"stopped early: {error}"] if error else []
        run = judge(run, merged.samples, writer.folder, warnings, is_reference(self.config))
        writer.finish(run)
        print(f"{writer.folder}: kept {len(merged.samples)} samples of the {status} run", file=sys.stderr)
        if self.config.workload.mode == "offline":
            print("runner.resume=true goes on with it", file=sys.stderr)

    @property
    def _open(self) -> RunWriter:
        if self._writer is None:
            raise RuntimeError("the session is not open")
        return self._writer

    def _run(self, config: RunConfig, role: str, process: int, block: int | None, folder: Path) -> None:
        launch = self._launch(config, role, process, block, folder)
        with launch.progress:
            (outcome,) = run_jobs([launch], config.runner.silence_timeout_s)
        self._warn(outcome.warnings)
        if outcome.error is not None:
            raise outcome.error

    def _warn(self, warnings: Sequence[str]) -> None:
        self._warnings += [text for text in warnings if text not in self._warnings]

    def _launch(self, config: RunConfig, role: str, process: int, block: int | None, folder: Path) -> Launch:
        trace = str(folder / f"trace-{process}.json") if config.profiler.name == "torch" else None
        stopped = str(self._stopped) if self._stopped is not None and role == "measured" else None
        audio_file = str(self._audio_file)
        job = Job(role, process, block, str(folder), audio_file, to_dict(config), trace, stopped=stopped)
        label = f" · {self.config.runner.label}" if self.config.runner.label else ""
        title = f"{self.config.variant}{label} {role} {process + 1}"

        wrap = None
        if config.profiler.name == "nsys" and role == "measured":
            wrap = partial(nsys_command, config.profiler.options, str(folder / f"nsys-{process}"))
        return Launch(job, Progress(title), wrap)

    def _provenance(self) -> Provenance:
        return Provenance(
            git=provenance.git_state(),
            python=provenance.python_version(),
            os=provenance.os_name(),
            cpu=provenance.cpu_model(),
            cpu_count=provenance.usable_cores(),
            packages=provenance.package_versions(),
            dataset=_dataset(self.audio),
            # The weights are known once a process has built them; see finish().
            model=_model(self.config),
            gpus=provenance.gpus(self.config.topology.devices_used),
            command=_stated(provenance.command_line(), self.config.target),
        )


def measure_side_by_side(sessions: Sequence[RunSession], block: int) -> list[tuple[RunSession, HarnessError]]:
    """Launch process number ``block`` of every session at once; they take turns, in the order given.

    Returns the sessions whose process failed while the others went on.
    """
    with ExitStack() as stack:
        launches = [
            session._launch(session.config, "measured", block, block, session._open.folder)
            for session in sessions
        ]
        for launch in launches:
            stack.enter_context(launch.progress)
        silence_s = max(session.config.runner.silence_timeout_s for session in sessions)
        outcomes = run_jobs(launches, silence_s)
    failed = []
    for session, outcome in zip(sessions, outcomes, strict=True):
        session._warn(outcome.warnings)
        if outcome.error is not None:
            failed.append((session, outcome.error))
    return failed


def take_turns(configs: Sequence[RunConfig]) -> bool:
    """Whether runs can hand over to each other between requests: a schedule of arrivals does not wait,
    a profiler's timeline should hold one process, and of unequal numbers of requests the last would have no
    neighbour."""
    turns = {(c.workload.requests, c.runner.turn_requests) for c in configs}
    return len(turns) == 1 and all(
        c.workload.mode == "closed" and c.profiler.name == "none" and c.runner.turn_requests > 0
        for c in configs
    )


def _asks_all(session: RunSession) -> bool:
    workload = session.config.workload
    return workload.mode == "offline" or workload.requests >= len(session.audio.items)


def is_reference(config: RunConfig) -> bool:
    """Whether ``config`` runs the reference itself: eager parts in one process."""
    return as_reference(config) == config


def as_reference(config: RunConfig) -> RunConfig:
    """The same model, workload and front end (on the host) through the eager encoder, host-driven decoder
    and no serving path: what every variant's output is held to, that of live streams too."""
    eager = compose_run(["variant=eager"])
    given = {key: value for key, value in config.frontend.items() if key != "name"}
    return replace(
        config,
        variant="eager",
        frontend=registry.reference_frontend(config.frontend["name"], given),
        encoder=eager.encoder,
        decoder=eager.decoder,
        batching=eager.batching,
        topology=eager.topology,
        ipc=eager.ipc,
        io=eager.io,
        gc=eager.gc,
        profiler=eager.profiler,
    )


def _heard(config: RunConfig) -> dict[str, Any] | None:
    """What a live stream hears of a recording depends on these; else it is heard as it is."""
    return dict(config.workload.options) if config.workload.mode == "streaming" else None


def _loosest(config: RunConfig) -> Tolerance:
    """The tolerance of the run: that of the axis which may change the output most."""
    parts = (config.model, config.encoder, config.decoder, config.batching)
    declared = [part.tolerance for part in parts]
    if "max_wer_difference" in config.frontend:
        declared.append(ConfiguredTolerance("wer", config.frontend["max_wer_difference"]))
    loosest = max(declared, key=lambda t: (t.kind == "wer", t.max_wer_difference))
    return Tolerance(loosest.kind, loosest.max_wer_difference if loosest.kind == "wer" else None)


def _written(config: RunConfig) -> dict[str, Any]:
    """The configuration as results hold it."""
    target = config.target
    if target.is_foreign:
        config = replace(config, target=replace(target, url=stated_url(target)))
    return to_dict(config)


def _stated(words: Sequence[str], target: TargetConfig) -> tuple[str, ...]:
    """Of a command, as results hold them."""
    return tuple(without_secrets(word, target, None) if target.is_foreign else word for word in words)


def _content(config: RunConfig, origin: Provenance) -> dict[str, Any]:
    values = to_dict(config)
    for key in _NOT_CONTENT:
        values["runner"].pop(key)
    values.pop("cost")  # what an hour costs is no part of what was measured
    values["dataset"] = {"content_hash": origin.dataset.content_hash}
    machine = {
        "cpu": origin.cpu,
        "cores": origin.cpu_count,
        "gpus": [dataclasses.asdict(gpu) for gpu in origin.gpus],
    }
    return {
        "config": values,
        "source": origin.git.source_hash,
        "packages": dict(origin.packages),
        "python": origin.python,
        "machine": machine,
    }


def _dataset(audio: AudioSet) -> Dataset:
    counts: dict[str, int] = {}
    for item in audio.items:
        counts[item.bucket] = counts.get(item.bucket, 0) + 1
    return Dataset(
        name=audio.name,
        content_hash=audio.content_hash,
        items=len(audio.items),
        audio_s=sum(item.duration_s or 0.0 for item in audio.items),
        mix={bucket: count / len(audio.items) for bucket, count in sorted(counts.items())},
    )


def _tolerance(config: RunConfig) -> Tolerance:
    """Of a foreign server nothing else is known than the limit it is held to."""
    return Tolerance("wer", config.target.max_wer) if config.target.is_foreign else _loosest(config)


def _model(config: RunConfig) -> Model:
    if config.target.is_foreign:
        return Model(config.target.model, "foreign", weights_hash="")
    return Model(config.model.label, config.model.weights, weights_hash="")


def _with_model(run: Run, processes: Sequence[ProcessRecord]) -> Run:
    """Fill in the weights, which are known once a process has built them, or what a foreign server's
    headers say of its version."""
    if is_foreign(run.config):
        found = [p.evidence.get("target", {}).get("versions", {}) for p in processes]
    else:
        found = [p.evidence.get("engine", {}).get("model", {}) for p in processes]
    details = next((dict(model) for model in found if model), {})
    model = replace(
        run.provenance.model,
        weights_hash=str(details.get("weights_hash", "")),
        parameters=details.get("parameters"),
        details=details,
    )
    origin = replace(run.provenance, model=model)
    return replace(run, provenance=origin, comparability=comparability_of(run.config, origin))
