"""Keys, the cache and the builder's process. A small program stands in for an interpreter with TensorRT."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, UnavailableError, UsageError
from variants.content_cache import ContentCache
from variants.encoder.tensorrt import process
from variants.encoder.tensorrt.logs import Messages
from variants.encoder.tensorrt.phases import KernelCount
from variants.encoder.tensorrt.process import EngineStore
from variants.encoder.tensorrt.spec import EngineSpec, ShapeRange, hash_onnx

SPEC = EngineSpec(
    onnx="/somewhere/encoder.onnx",
    onnx_sha256="ab" * 32,
    bins=128,
    precision="fp16",
    profiles=(ShapeRange((1, 1, 8), (1, 200, 200)), ShapeRange((1, 1, 8), (201, 1000, 1000))),
)


# ---------------------------------------------------------------- keys


def test_a_key_is_of_content_not_of_place() -> None:
    assert SPEC.key("10.3", "H100") == replace(SPEC, onnx="/elsewhere/e.onnx").key("10.3", "H100")


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, onnx_sha256="cd" * 32),
        replace(SPEC, precision="fp32"),
        replace(SPEC, profiles=SPEC.profiles[:1]),
        replace(SPEC, profiles=SPEC.profiles[::-1]),
        replace(SPEC, profiles=(ShapeRange((1, 2, 8), (1, 200, 200)), SPEC.profiles[1])),
        replace(SPEC, optimization_level=2),
        replace(SPEC, workspace_bytes=1 << 20),
        replace(SPEC, tactic_sources=("EDGE_MASK_CONVOLUTIONS",)),
        replace(SPEC, runtime="tensorrt_rtx"),
    ],
)
def test_whatever_makes_another_engine_makes_another_key(other: EngineSpec) -> None:
    assert other.key("10.3", "H100") != SPEC.key("10.3", "H100")


def test_another_tensorrt_or_gpu_makes_another_key() -> None:
    keys = {SPEC.key(version, gpu) for version in ("8.6.0", "10.3") for gpu in ("H100 sm_90", "A100 sm_80")}
    assert len(keys) == 4


@given(
    st.lists(
        st.builds(ShapeRange, st.tuples(*[st.integers(1, 8)] * 3), st.tuples(*[st.integers(1, 3000)] * 3)),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.none() | st.lists(st.sampled_from(["CUBLAS", "CUDNN"])).map(tuple),
)
def test_a_specification_survives_json(
    profiles: tuple[ShapeRange, ...], sources: tuple[str, ...] | None
) -> None:
    spec = replace(SPEC, profiles=profiles, tactic_sources=sources, target=(8, 9))
    assert EngineSpec.from_json(spec.to_json()) == spec


def test_the_graph_s_hash_covers_the_weights_beside_it(tmp_path: Path) -> None:
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(b"graph")
    (tmp_path / "encoder.onnx.weights").write_bytes(b"weights")
    before = hash_onnx(graph)
    (tmp_path / "encoder.onnx.weights").write_bytes(b"Weights")
    assert hash_onnx(graph) != before


# ---------------------------------------------------------------- the cache


def fill(cache: ContentCache, key: str, content: bytes = b"engine") -> None:
    with cache.create(key) as folder:
        (folder / "encoder.plan").write_bytes(content)


def test_an_entry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "new" / "folder")
    assert cache.get("k") is None
    fill(cache, "k")
    entry = cache.get("k")
    assert entry is not None
    assert (entry / "encoder.plan").read_bytes() == b"engine"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    with pytest.raises(KeyboardInterrupt), cache.create("k") as folder:
        (folder / "encoder.plan").write_bytes(b"half an eng")
        raise KeyboardInterrupt
    assert cache.get("k") is None
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_was_killed_leaves_no_entry(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from variants.content_cache import ContentCache
        with ContentCache(Path(sys.argv[1])).create("k") as folder:
            (folder / "encoder.plan").write_bytes(b"half an eng")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cache = ContentCache(tmp_path)
    assert cache.get("k") is None
    fill(cache, "k")
    assert cache.get("k") is not None


@pytest.mark.parametrize("damage", [b"", b"engin", b"Engine", None])
def test_a_damaged_entry_is_no_entry_and_can_be_built_anew(damage: bytes | None, tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    fill(cache, "k")
    plan = tmp_path / "k" / "encoder.plan"
    plan.unlink() if damage is None else plan.write_bytes(damage)
    assert cache.get("k") is None
    fill(cache, "k")
    assert cache.get("k") is not None


def test_without_a_home_folder_it_is_said_what_to_set() -> None:
    nobody = [
        "unshare",
        "--user",
        "--map-user=12345",
        "env",
        "-u",
        "HOME",
    ]  # a user that passwd does not know
    if shutil.which("unshare") is None or subprocess.run([*nobody, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces")
    program = "from variants.content_cache import user_cache; user_cache('kernels')"
    done = subprocess.run([*nobody, sys.executable, "-c", program], capture_output=True, text=True)
    assert "UsageError: HOME is not set and user 12345 has no entry in passwd: set HOME" in done.stderr


def _not_ours(path: Path) -> None:
    """Another user's; where this user cannot give it away, at least open to others."""
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        path.chmod(0o777)


@pytest.mark.parametrize("part", [".", "k", "k/encoder.plan", "k/contents.json"])
def test_what_another_user_put_there_is_refused_not_executed(part: str, tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "cache")
    fill(cache, "k")
    _not_ours(tmp_path / "cache" / part)
    with pytest.raises(UsageError, match="another user owns it or may change it"):
        cache.get("k")


def test_what_others_may_change_or_a_link_is_refused(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    fill(cache, "k")
    plan = tmp_path / "k" / "encoder.plan"
    plan.chmod(0o666)
    with pytest.raises(UsageError, match=r"encoder\.plan"):
        cache.get("k")
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"encoder\.plan"):
        cache.get("k")


def test_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    with cache.create("k") as slower:
        (slower / "encoder.plan").write_bytes(b"second")
        fill(cache, "k", b"first")
    entry = cache.get("k")
    assert entry is not None
    assert (entry / "encoder.plan").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_an_entry_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="left no file"), ContentCache(tmp_path).create("k"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HarnessError, match="cache_dir"), ContentCache(tmp_path / "x").create("k"):
        pass


def test_a_file_in_place_of_the_folder_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cache_dir"), ContentCache(tmp_path / "file").create("k"):
        pass


# ---------------------------------------------------------------- the builder's process

BUILDER = """
import json, sys, time
from pathlib import Path
def say(**message): print(json.dumps(message), flush=True)
verb, *arguments = sys.argv[5:]  # after -m MODULE --parent PID
if verb == "identify":
    say(tensorrt="10.3.0", gpu="A GPU sm_90")
    sys.exit(0)
spec, output, timings = map(Path, arguments)
Path({log!r}).open("a").write("built\\n")
say(phase="Building", step=1, steps=2)
print("a library prints this among the messages", flush=True)
{body}
"""


def store(tmp_path: Path, body: str, builder: str = BUILDER) -> EngineStore:
    program = tmp_path / "interpreter.py"
    program.write_text(builder.format(log=str(tmp_path / "log"), body=textwrap.dedent(body)))
    return EngineStore(tmp_path / "engines", [sys.executable, str(program)])


def builds(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().splitlines())


def entries(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "engines").iterdir())


GOOD = 'output.write_bytes(b"engine"); timings.write_bytes(b"timings"); say(built=12.5)'


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    engines = store(tmp_path, GOOD)
    first, second = engines.get(SPEC), engines.get(SPEC)
    assert (first.build_s, first.found) == (12.5, False)
    assert (second.build_s, second.found) == (12.5, True)
    assert first.plan == second.plan
    assert first.plan.read_bytes() == b"engine"
    assert first.key == SPEC.key("10.3.0", "A GPU sm_90")
    assert builds(tmp_path) == 1
    assert (tmp_path / "engines" / "timings-10.3.0-A_GPU_sm_90.bin").read_bytes() == b"timings"


def test_a_crash_shows_its_last_words_and_leaves_no_entry(tmp_path: Path) -> None:
    body = 'output.write_bytes(b"half"); sys.stderr.write("Segmentation fault in myelin"); sys.exit(139)'
    with pytest.raises(HarnessError, match=r"status 139.*myelin"):
        store(tmp_path, body).get(SPEC)
    assert entries(tmp_path) == []


def test_a_builder_that_forgets_the_engine_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="left no engine"):
        store(tmp_path, "say(built=1.0)").get(SPEC)
    assert entries(tmp_path) == []


def test_an_interpreter_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-python"):
        EngineStore(tmp_path, [str(tmp_path / "no-such-python")]).get(SPEC)


def test_progress_is_shown_at_a_human_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred steps in 1.2 s are told a few times, not a hundred."""
    monkeypatch.setattr(process, "_TELL_EVERY_S", 0.5)
    steps = 'for step in range(100): say(phase="Timing", step=step, steps=100); time.sleep(0.012)\n'
    shown = shown_by(tmp_path, steps + GOOD)
    assert 1 <= len(shown) <= 4
    assert all(re.fullmatch(r"building the engine, \d+ s: Timing", what) for what, *_ in shown)
    done = [step for _, step, _ in shown]
    assert done == sorted(done)
    assert {total for *_, total in shown} == {100}


def test_a_release_that_reports_no_progress_is_not_taken_for_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits gives up where the same is said again (``Life``): something else is said each time, as
    long as the build takes."""
    monkeypatch.setattr(process, "_TELL_EVERY_S", 1.0)
    silent = BUILDER.replace('say(phase="Building", step=1, steps=2)\n', "")
    shown = shown_by(tmp_path, "time.sleep(2.5)\n" + GOOD, silent)
    assert shown[0] == ("building the engine, 1 s", 0, 0)
    assert len(shown) == len(set(shown)) >= 2


def shown_by(tmp_path: Path, body: str, builder: str = BUILDER) -> list[tuple[str, int, int]]:
    shown: list[tuple[str, int, int]] = []
    engines = store(tmp_path, body, builder)
    engines._progress = lambda what, done=0, total=0: shown.append((what, done, total))
    engines.get(SPEC)
    return shown


def test_a_release_without_a_monitor_counts_the_layers_that_it_logs() -> None:
    """As 8.6 logs them at its most verbose."""
    told: list[tuple[str, int, int]] = []
    messages = Messages()
    messages.heard = KernelCount(lambda *progress: told.append(progress))
    for text in (
        "=============== Computing costs for ",
        "Tactic: 0x1 Time: 0.02",
        "Computing costs for conv",
    ):
        messages.add("VERBOSE", text)
    assert told == [("choosing kernels, layer", 1, 0), ("choosing kernels, layer", 2, 0)]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_real_builder_says_so_without_importing_torch(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"'tensorrt'.*pip install"):
        EngineStore(tmp_path).get(SPEC)


def test_building_and_running_engines_imports_no_torch() -> None:
    modules = ("build", "logs", "process", "run", "spec", "versions")
    code = (
        "import importlib, json, sys\n"
        f"[importlib.import_module('variants.encoder.tensorrt.' + name) for name in {modules}]\n"
        "print(json.dumps(sorted({'torch', 'nemo'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
