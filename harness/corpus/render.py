"""A specification rendered once: recordings and their manifest in a folder named by its content.

The folder's name carries a hash of all that decides the bytes: the specification's meaning, the texts,
this renderer's version and the versions of the libraries behind it. A folder that has that name is
complete: rendering happens in a folder beside it, which takes the name in one step at its end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from harness.corpus.buckets import bucket_label
from harness.corpus.compose import Recording, Script, record
from harness.corpus.encode import encode, legal_rate
from harness.corpus.grammar import Grammar
from harness.corpus.lengths import apportion, deal
from harness.corpus.manifest import (
    MANIFEST_NAME,
    AudioItem,
    AudioSet,
    read_rendered,
    write_manifest,
)
from harness.corpus.render_pool import make_all, serve
from harness.corpus.spec import AudioSetSpec, Range, RecordingSpec
from harness.errors import UsageError
from harness.protocols.folders import OwnFolder, remove_abandoned

#: Raise it whenever the same specification would give other bytes.
RENDERER_VERSION = 1
_LIBRARIES = ("espeakng-loader", "av", "soxr", "numpy")
_AUDIO_FOLDER = "audio"
_PARTIAL_PREFIX = ".partial-"
_WORTH_PROCESSES_S = 900.0
"""Audio to make above which starting processes pays."""


def render(spec: AudioSetSpec, cache_dir: Path, progress: bool) -> AudioSet:
    """The audio set of ``spec``, from the cache, or rendered into it.

    Processes that render the same set at once each render it; the first to finish keeps the name.
    An interruption leaves nothing that looks finished. ``progress`` draws a bar on stderr. Raises
    ``UsageError`` that names the cache where it cannot be written or is full, or was damaged.
    """
    folder = cache_dir / f"{spec.name}-{_fingerprint(spec)[:16]}"
    with _writable(cache_dir):
        remove_abandoned(_PARTIAL_PREFIX, cache_dir)
        if not folder.is_dir():
            with _partial_folder(cache_dir, spec.name) as partial:
                _render_into(partial, spec, progress)
                _publish(partial, folder)
    return read_rendered(folder, spec.name, spec.bucket_edges_s)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One recording to make: what, in which container, from which grammar."""

    index: int
    script: Script
    container: str
    text: Path


@dataclass(frozen=True, slots=True)
class _Renderer:
    """Makes recordings of a set in ``folder``; picklable for processes that help."""

    folder: Path
    seed: int
    edges_s: tuple[float, ...]

    def __call__(self, plan: _Plan) -> AudioItem:
        # A generator of its own for each recording: none depends on those before it.
        rng = np.random.default_rng([self.seed, plan.index])
        recording = record(plan.script, _grammar(plan.text), rng)
        return _store(self.folder, plan, recording, self.edges_s)


_grammar = cache(Grammar.load)


def helper(renderer: _Renderer, control: Connection) -> int:
    """Entry point of a process that renders."""
    return serve(control, renderer)


def _render_into(folder: Path, spec: AudioSetSpec, progress: bool) -> None:
    (folder / _AUDIO_FOLDER).mkdir()
    plans = _plan(spec)
    total_s = sum(plan.script.length_s for plan in plans)
    items = []
    bar = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=total_s, desc=f"rendering {spec.name}", bar_format=bar, disable=not progress) as shown:
        for item in _rendered(_Renderer(folder, spec.seed, spec.bucket_edges_s), plans, total_s):
            items.append(item)
            shown.update(plans[int(item.item_id)].script.length_s)
    write_manifest(folder / MANIFEST_NAME, sorted(items, key=lambda item: item.item_id))


def _rendered(renderer: _Renderer, plans: Sequence[_Plan], total_s: float) -> Iterator[AudioItem]:
    """Every recording, in any order: on all cores where there is enough to do."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or total_s < _WORTH_PROCESSES_S:
        return map(renderer, plans)
    longest_first = sorted(plans, key=lambda plan: -plan.script.length_s)
    made: Iterator[Any] = make_all("harness.corpus.render:helper", renderer, longest_first, cores)
    return made


def _plan(spec: AudioSetSpec) -> list[_Plan]:
    """Every recording of the set, kinds mixed at random, each kind's weights met as nearly as can be."""
    rng = np.random.default_rng(spec.seed)
    counts = apportion({kind: weight for kind, (_, weight) in enumerate(spec.kinds)}, spec.items)
    planned = [pair for kind, count in counts.items() for pair in _plan_kind(spec.kinds[kind][0], count, rng)]
    shuffled = [planned[position] for position in rng.permutation(len(planned))]
    return [_Plan(index, script, container, text) for index, (script, container, text) in enumerate(shuffled)]


def _plan_kind(
    kind: RecordingSpec, count: int, rng: np.random.Generator
) -> Iterator[tuple[Script, str, Path]]:
    lengths = kind.lengths.sample(count, rng)
    containers = deal(dict(kind.containers), count, rng)
    rates = deal(dict(kind.sample_rates), count, rng)
    channels = deal(dict(kind.channels), count, rng)
    for index in range(count):
        script = Script(
            length_s=float(lengths[index]),
            sample_rate=legal_rate(containers[index], rates[index]),
            channels=channels[index],
            speech_ratio=float(rng.uniform(*kind.speech_ratio)),
            snr_db=_draw(kind.snr_db, rng),
            rt60_s=_draw(kind.rt60_s, rng),
            voices=_draw_voices(kind, rng),
        )
        yield script, containers[index], kind.text


def _draw(bounds: Range | None, rng: np.random.Generator) -> float | None:
    return None if bounds is None else round(float(rng.uniform(*bounds)), 3)


def _draw_voices(kind: RecordingSpec, rng: np.random.Generator) -> tuple[str, ...]:
    chosen = rng.permutation(len(kind.voices))[: kind.speakers]
    return tuple(kind.voices[index] for index in chosen)


def _store(folder: Path, plan: _Plan, recording: Recording, edges_s: tuple[float, ...]) -> AudioItem:
    script = plan.script
    payload = encode(recording.audio, plan.container, script.sample_rate, script.channels, None)
    path = folder / _AUDIO_FOLDER / f"{plan.index:06d}.{plan.container}"
    path.write_bytes(payload)
    return AudioItem(
        item_id=f"{plan.index:06d}",
        path=path,
        duration_s=recording.audio.duration_s,
        text=recording.text,
        container=plan.container,
        sample_rate=script.sample_rate,
        channels=script.channels,
        bucket=bucket_label(recording.audio.duration_s, edges_s),
        speech_s=round(recording.speech_s, 6),
        snr_db=script.snr_db,
        rt60_s=script.rt60_s,
        voice=",".join(script.voices),
        sha256=hashlib.sha256(payload).hexdigest(),
        size_bytes=len(payload),
    )


def _fingerprint(spec: AudioSetSpec) -> str:
    """SHA-256 of all that decides the bytes; a name or a description does not."""
    meaning = {
        "renderer": RENDERER_VERSION,
        "libraries": {library: version(library) for library in _LIBRARIES},
        "set": [spec.items, spec.seed, spec.bucket_edges_s],
        "kinds": [[_meaning(kind), weight] for kind, weight in spec.kinds],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _meaning(kind: RecordingSpec) -> dict[str, Any]:
    fields = asdict(kind)
    fields["distribution"] = type(kind.lengths).__name__
    fields["text"] = hashlib.sha256(kind.text.read_bytes()).hexdigest()
    return fields


@contextmanager
def _partial_folder(cache_dir: Path, name: str) -> Iterator[Path]:
    """A folder beside the finished ones, removed at the end whatever happened unless it was renamed."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with OwnFolder(_PARTIAL_PREFIX, cache_dir, f"{name}-") as folder:
        yield folder


def _publish(partial: Path, folder: Path) -> None:
    partial.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process finished the same set first: its bytes are ours
            raise


@contextmanager
def _writable(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{cache_dir}: cannot write the audio cache ({error.strerror}); "
            "free some space there, or choose another folder for the cache"
        ) from error


def with_overrides(spec: AudioSetSpec, items: int | None, seed: int | None) -> AudioSetSpec:
    """``spec`` with another number of recordings or another seed where they are given."""
    if items is not None and items < 1:
        raise UsageError(f"dataset.items={items}: an audio set has at least one recording")
    return replace(
        spec,
        items=spec.items if items is None else items,
        seed=spec.seed if seed is None else seed,
    )
