"""A specification is rendered once, to the sample, and the seed decides everything."""

from __future__ import annotations

import hashlib
import io
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest

from harness.corpus import render as renderer
from harness.corpus.encode import CONTAINERS
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import AudioItem, AudioSet, content_hash
from harness.corpus.render_pool import make_all
from harness.corpus.spec import load_spec
from harness.errors import UsageError
from harness.paths import conf_dir, datasets_dir
from harness.protocols.folders import OwnFolder

from .conftest import WriteSpec

_RENDER = """
import sys
from pathlib import Path
from harness.corpus.load import load_audio_set
name, specs, cache = sys.argv[1:4]
print(load_audio_set(name, None, Path(specs), Path(cache)).content_hash)
"""


def render(specs_dir: Path, cache: Path, name: str = "tiny", **overrides: int) -> AudioSet:
    return load_audio_set(name, None, specs_dir, cache, **overrides)


def start(specs_dir: Path, cache: Path, name: str = "tiny") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _RENDER, name, str(specs_dir), str(cache)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=conf_dir().parent,
        # A shell starts its background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def decoded(item: AudioItem) -> np.ndarray:
    with av.open(io.BytesIO(item.read())) as file:
        planes = [frame.to_ndarray() for frame in file.decode(audio=0)]
    return np.concatenate(planes, axis=1)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> AudioSet:
    return load_audio_set("smoke", None, datasets_dir(), tmp_path_factory.mktemp("cache"))


def test_smoke_has_every_container_several_rates_and_one_stereo_clip(smoke: AudioSet) -> None:
    assert Counter(item.container for item in smoke.items) == dict.fromkeys(CONTAINERS, 2)
    assert len({item.sample_rate for item in smoke.items}) >= 3
    assert Counter(item.channels for item in smoke.items) == {1: 11, 2: 1}
    assert smoke.audio_s < 26


def test_files_are_what_the_manifest_says(smoke: AudioSet) -> None:
    for item in smoke.items:
        payload = item.read()
        assert hashlib.sha256(payload).hexdigest() == item.sha256
        assert len(payload) == item.size_bytes
        with av.open(io.BytesIO(payload)) as file:
            stream = file.streams.audio[0]
            assert stream.codec_context.channels == item.channels
            if item.container not in ("webm", "ogg"):  # Opus always decodes at 48 kHz
                assert stream.codec_context.sample_rate == item.sample_rate
            assert file.duration is not None
            assert file.duration / av.time_base == pytest.approx(item.duration_s, abs=0.03)
        assert item.text
        assert item.speech_s is not None
        assert item.duration_s is not None
        assert 0 < item.speech_s <= item.duration_s


def test_speech_ratio_is_kept(smoke: AudioSet) -> None:
    spoken = sum(item.speech_s or 0 for item in smoke.items)
    assert 0.5 < spoken / smoke.audio_s < 0.95


def test_rendered_manifest_reads_as_anyones_manifest(smoke: AudioSet) -> None:
    read = load_audio_set(None, smoke.root / "manifest.jsonl", datasets_dir(), smoke.root.parent)
    measured = {"duration_s", "sample_rate", "channels", "bucket"}
    for mine, rendered in zip(read.items, smoke.items, strict=True):
        assert {k: v for k, v in asdict(mine).items() if k not in measured} == {
            k: v for k, v in asdict(rendered).items() if k not in measured
        }
        assert mine.duration_s == pytest.approx(rendered.duration_s, abs=0.07)  # AAC's padding
    assert not read.warnings


def test_lengths_around_profile_edges_are_exact_to_the_sample(tmp_path: Path) -> None:
    edges = render(datasets_dir(), tmp_path, "profile_edges", items=9)
    for item in edges.items:
        assert item.duration_s is not None
        samples = decoded(item).shape[1]
        assert samples == round(item.duration_s * 16000)
        assert samples % 160 == 0  # whole ten-millisecond frames


def test_same_seed_same_hash_in_any_process_and_another_seed_another(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    here = render(specs_dir, tmp_path / "a")
    process = start(specs_dir, tmp_path / "b")
    assert process.communicate()[0].strip() == here.content_hash
    other = render(specs_dir, tmp_path / "a", seed=2)
    assert other.content_hash != here.content_hash
    assert [item.text for item in other.items] != [item.text for item in here.items]


def test_a_recording_does_not_depend_on_where_the_cache_is(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    first, second = (render(specs_dir, tmp_path / cache) for cache in ("a", "b/c"))
    assert first.content_hash == second.content_hash
    assert first.items[0].read() == second.items[0].read()


def test_the_second_time_nothing_is_rendered(write_spec: WriteSpec, specs_dir: Path, tmp_path: Path) -> None:
    write_spec()
    first = render(specs_dir, tmp_path / "cache")
    written = {item.path: item.path.stat().st_mtime_ns for item in first.items}
    second = render(specs_dir, tmp_path / "cache")
    assert second == first
    assert {item.path: item.path.stat().st_mtime_ns for item in second.items} == written


def test_whatever_changes_the_sound_changes_the_folder_and_words_about_it_do_not(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    def root(**changes: object) -> Path:
        write_spec(items=1, **changes) if "items" not in changes else write_spec(**changes)
        return render(specs_dir, tmp_path / "cache").root

    original = root()
    assert root(description="Other words.") == original
    changes = [
        {"items": 2},
        {"seed": 9},
        {"snr_db": None},
        {"speech_ratio": [0.6, 0.8]},
        {"voices": ["gb_male"]},
    ]
    assert len({original, *(root(**change) for change in changes)}) == 1 + len(changes)


def test_clean_mono_speech_has_silent_pauses_and_noise_fills_them(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    def quietest_window(**changes: object) -> float:
        write_spec(
            items=1,
            containers={"wav": 1},
            lengths={"distribution": "uniform", "min_s": 4, "max_s": 5},
            **changes,
        )
        samples = decoded(render(specs_dir, tmp_path / "cache").items[0])[0]
        windows = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float64)
        return float(np.sqrt(np.mean(windows**2, axis=1)).min())

    assert quietest_window(snr_db=None, rt60_s=None, speech_ratio=[0.5, 0.6]) == 0.0
    assert quietest_window(snr_db=[10, 10], rt60_s=None, speech_ratio=[0.5, 0.6]) > 10


def test_several_speakers_take_turns(write_spec: WriteSpec, specs_dir: Path, tmp_path: Path) -> None:
    write_spec(items=1, speakers=3, lengths={"distribution": "uniform", "min_s": 12, "max_s": 13})
    voice = render(specs_dir, tmp_path).items[0].voice
    assert voice is not None
    assert len(set(voice.split(","))) == 3


def test_the_shortest_recordings_hold_a_whole_word(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec(items=6, lengths={"distribution": "uniform", "min_s": 0.3, "max_s": 0.31})
    for item in render(specs_dir, tmp_path).items:
        assert item.text
        assert item.speech_s is not None
        assert 0.05 < item.speech_s <= 0.31


def test_a_mixture_draws_from_each_kind_by_weight(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec(
        "short", lengths={"distribution": "uniform", "min_s": 0.5, "max_s": 0.9}, containers={"wav": 1}
    )
    write_spec("long", lengths={"distribution": "uniform", "min_s": 3, "max_s": 4}, containers={"flac": 1})
    (specs_dir / "both.yaml").write_text(
        "{description: Both., items: 8, seed: 1, bucket_edges_s: [1, 2],"
        " lengths: {distribution: mixture, weights: {short: 3, long: 1}}}"
    )
    both = render(specs_dir, tmp_path, "both")
    assert Counter(item.container for item in both.items) == {"wav": 6, "flac": 2}
    assert all((item.duration_s or 0) >= 3 for item in both.items if item.container == "flac")


# ---------------------------------------------------------------- what can go wrong


def test_two_processes_at_once_agree(write_spec: WriteSpec, specs_dir: Path, tmp_path: Path) -> None:
    write_spec(items=8)
    cache = tmp_path / "cache"
    processes = [start(specs_dir, cache) for _ in range(2)]
    hashes = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(hashes) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing_that_looks_finished(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path, how: signal.Signals
) -> None:
    write_spec(items=2000)
    cache = tmp_path / "cache"
    process = start(specs_dir, cache)
    while not list(cache.glob("*/audio/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    left = [path.name for path in cache.iterdir()]
    assert all(name.startswith(".partial-") for name in left)
    assert how == signal.SIGKILL or not left

    write_spec(items=2)
    assert len(render(specs_dir, cache).items) == 2


def test_what_a_killed_process_left_is_removed_and_what_another_works_in_is_not(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    abandoned = Path(tempfile.mkdtemp(prefix=".partial-some-", dir=tmp_path))
    with OwnFolder(".partial-", tmp_path, "other-") as in_use:
        assert not abandoned.exists()
        abandoned.mkdir(mode=0o700)
        write_spec(items=1)
        render(specs_dir, tmp_path)
        assert in_use.exists()
    assert not abandoned.exists()


def test_a_damaged_cache_is_refused_with_the_remedy(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    damaged = render(specs_dir, tmp_path / "cache")
    victim = damaged.items[1].path
    bytes_before = victim.read_bytes()
    flipped = bytes_before[:-1] + bytes([bytes_before[-1] ^ 1])  # the same size, one bit of sound
    for altered in (b"", flipped):
        victim.write_bytes(altered)
        with pytest.raises(UsageError, match="delete") as caught:
            render(specs_dir, tmp_path / "cache")
        assert str(victim) in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    with pytest.raises(UsageError, match="choose another folder") as caught:
        render(specs_dir, in_the_way / "cache")
    assert str(in_the_way) in str(caught.value)


def test_a_cache_whose_name_is_too_long_is_named(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    with pytest.raises(UsageError, match="File name too long"):
        render(specs_dir, tmp_path / ("x" * 300))


def test_a_full_disk_is_named_and_leaves_nothing(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec(containers={"wav": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on file sizes makes write() fail as a full disk does; Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UsageError, match="free some space") as caught:
            render(specs_dir, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "cache") in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_impossible_requests_are_refused(specs_dir: Path, tmp_path: Path, write_spec: WriteSpec) -> None:
    write_spec()
    with pytest.raises(UsageError, match=r"dataset\.items=0"):
        render(specs_dir, tmp_path, items=0)
    with pytest.raises(UsageError, match="not both or none"):
        load_audio_set(None, None, specs_dir, tmp_path)
    with pytest.raises(UsageError, match="not both or none"):
        load_audio_set("tiny", tmp_path / "m.jsonl", specs_dir, tmp_path)


def test_content_hash_covers_text_and_order(smoke: AudioSet) -> None:
    changed = [replace(smoke.items[0], text="something else"), *smoke.items[1:]]
    assert content_hash(changed) != smoke.content_hash
    assert content_hash(reversed(smoke.items)) != smoke.content_hash


def test_several_processes_render_the_same_bytes(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spec(items=5)
    here = render(specs_dir, tmp_path / "here")
    monkeypatch.setattr(renderer, "_WORTH_PROCESSES_S", 0.0)
    monkeypatch.setattr(renderer.os, "sched_getaffinity", lambda _pid: {0, 1})
    there = render(specs_dir, tmp_path / "there")
    assert there.content_hash == here.content_hash
    assert [item.item_id for item in there.items] == [item.item_id for item in here.items]


def test_what_a_rendering_process_cannot_write_is_told_as_it_is(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path
) -> None:
    write_spec()
    spec = load_spec("tiny", specs_dir)
    nowhere = renderer._Renderer(tmp_path / "nowhere", spec.seed, spec.bucket_edges_s)
    with pytest.raises(FileNotFoundError):
        list(make_all("harness.corpus.render:helper", nowhere, renderer._plan(spec), 2))


@pytest.mark.parametrize(("name", "expected_s"), [("offline_20h", 20 * 3600), ("offline_20m", 20 * 60)])
def test_offline_sets_are_as_long_as_they_are_called(name: str, expected_s: float) -> None:
    plans = renderer._plan(load_spec(name, datasets_dir()))
    lengths_s = [plan.script.length_s for plan in plans]
    assert expected_s <= sum(lengths_s) <= 1.01 * expected_s
    assert {plan.container for plan in plans} == {"flac", "ogg"}
    assert 0.4 < sum(length for length in lengths_s if length > 60) / sum(lengths_s) < 0.6
