from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.config.load import compose_run, from_dict, to_dict
from harness.config.rules import check
from harness.errors import UnavailableError, UsageError
from harness.paths import conf_dir, datasets_dir
from tests.harness.machines import Laptop, Workstation

VARIANTS = sorted(path.stem for path in (conf_dir() / "variant").glob("*.yaml"))
DATASETS = sorted(path.stem for path in datasets_dir().glob("*.yaml"))
LEAVES = sorted(
    (path.parent.name, path.stem)
    for axis in (
        "model",
        "encoder",
        "decoder",
        "batching",
        "frontend",
        "topology",
        "ipc",
        "io",
        "gc",
        "target",
        "workload",
        "runner",
        "profiler",
    )
    for path in (conf_dir() / axis).glob("*.yaml")
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_composes_and_makes_sense(variant: str) -> None:
    config = compose_run([f"variant={variant}"])
    assert config.variant == variant
    check(config, Workstation())


@pytest.mark.parametrize(("axis", "choice"), LEAVES)
def test_every_choice_composes(axis: str, choice: str) -> None:
    config = compose_run([f"{axis}={choice}"])
    assert to_dict(config)[axis]


@pytest.mark.parametrize("name", DATASETS)
def test_every_audio_set_is_a_choice(name: str) -> None:
    assert compose_run([f"dataset={name}"]).dataset.name == name


@pytest.mark.parametrize(
    "leaf", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_a_leaf_fits_on_a_screen(leaf: Path) -> None:
    assert len(leaf.read_text().splitlines()) <= 30


def test_a_configuration_survives_json() -> None:
    config = compose_run(["variant=eager", "model.buckets_s=[1,5]", "dataset.seed=4"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_a_command_line_choice_beats_the_preset() -> None:
    assert compose_run(["variant=eager", "gc=disabled"]).gc.name == "disabled"


def test_own_recordings_replace_the_set(tmp_path: Path) -> None:
    config = compose_run([f"dataset.manifest={tmp_path / 'mine.jsonl'}"])
    assert config.dataset.name is None


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("variant=warp_drive", "warp_drive"),
        ("variant=eagr", "did you mean eager"),
        ("flux_capacitor=on", "flux_capacitor"),
        ("decoder=warp", "warp"),
        ("encoder=4", "a name, not a number"),
        ("runner.proceses=3", "did you mean runner.processes"),
        ("encoder.options.backend=graph", "the chosen encoder has no option backend"),
        ("+runner.colour=red", "runner.colour"),
        ("decoder.options.no_such_knob=1", "no_such_knob"),
        ("workload.requests=many", "many"),
        ("frontend.vad=ears", "ears"),
        ("frontend.vda=silero", "did you mean frontend.vad"),
        ("io.options.port=1", "io=asyncio_loop, epoll, http, threads"),
        (
            "profiler=torch profiler.options.record_shapes=3",
            "profiler.options.record_shapes=3 has to be true",
        ),
        ("workload=streaming workload.options.chunk_s=2", "workload.options.chunk_s=2 has to be"),
        (
            "workload=streaming workload.options.encoding=mp3",
            "workload.options.encoding='mp3' has to be s16le",
        ),
        ("workload=streaming workload.options.duration_s=0.05", "duration_s=0.05 is shorter than one chunk"),
        ("model.device=tpu", "model.device='tpu' has to be auto, cpu or cuda"),
        ("model.precision=int3", "model.precision='int3' has to be"),
        ("model.tokens_per_speech_s=0.0", "model.tokens_per_speech_s=0.0 has to be a number above 0"),
        ("runner.start_timeout_s=.inf", "runner.start_timeout_s"),
        ("runner.processes=0", "runner.processes=0 has to be a whole number of at least 1"),
    ],
)
def test_a_mistake_is_named(override: str, names: str) -> None:
    with pytest.raises(UsageError, match=names) as error:
        compose_run(override.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "a=b.jsonl",
        "take (2).jsonl",
        "#1.jsonl",
        "a,b.jsonl",
        "{x}.jsonl",
        "it's.jsonl",
        "[x]",
        "é.jsonl",
        "a'\"$!b",
    ],
)
def test_a_path_that_has_to_be_quoted_is_shown_quoted(path: str) -> None:
    with pytest.raises(UsageError, match=r"dataset\.manifest: ") as error:
        compose_run([f"dataset.manifest=/data/{path}"])
    typed = str(error.value).partition("shell: ")[2]
    assert compose_run(shlex.split(typed)).dataset.manifest == f"/data/{path}"


def test_a_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(UsageError, match=r"runner\.results_dir='/home/me/results'"):
        compose_run(["runner.results_dir=~/results"])


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["ipc=shared_memory"], ("topology=inprocess", "ipc=shared_memory")),
        (["topology=collapsed", "ipc=none"], ("topology=collapsed", "ipc=none")),
        (["workload=open", "workload.rate_per_s=0"], ("workload.mode=open", "workload.rate_per_s=0")),
        (["model.device=cpu", "model.precision=fp16"], ("model.device=cpu", "model.precision=fp16")),
        (["model.buckets_s=[5,1]"], ("model.buckets_s",)),
        (["model=fixed_cost", "encoder=compiled"], ("encoder=compiled serves family tdt", "external")),
        (["model=fixed_cost", "decoder=nemo"], ("decoder=nemo serves family tdt", "decoder=cpu_synced")),
        (["topology.devices=[0]"], ("topology=inprocess", "topology.devices=[0]", "set topology=collapsed")),
        (["variant=collapsed", "topology.devices=[1,1]"], ("topology.devices=[1, 1]", "name it once")),
        (["topology=ray"], ("topology=ray", "workload=closed", "set workload=offline")),
        (["topology=ray", "workload=offline", "ipc=zeromq"], ("topology=ray", "ipc=zeromq", "set ipc=none")),
        (["topology=ray", "workload=offline", "io=epoll"], ("topology=ray", "io=epoll", "set io=none")),
        (["workload.search=slo"], ("workload.mode=closed", "set workload=open")),
        (["dataset.manifest=nowhere.jsonl"], ("dataset.manifest=nowhere.jsonl",)),
    ],
)
def test_an_impossible_combination_is_refused_in_one_line(
    overrides: list[str], keys: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as error:
        check(compose_run(overrides), Workstation())
    assert all(key in str(error.value) for key in keys)
    assert "\n" not in str(error.value)


def test_what_the_machine_lacks_is_named() -> None:
    config = compose_run(["encoder=multi_profile"])
    with pytest.raises(UnavailableError, match="no NVIDIA GPU") as error:
        check(config, Laptop())
    assert "tensorrt" in str(error.value)
    assert "encoder=multi_profile" in str(error.value)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"topology\.devices=\[0, 2\]: 2 are visible"):
        check(compose_run(["variant=collapsed", "topology.devices=[0,2]"]), Workstation())
    check(compose_run(["variant=collapsed", "topology.devices=[0,1]"]), Workstation())
    check(compose_run(["variant=collapsed", "topology.devices=[0,2]", "model.device=cpu"]), Workstation())


def test_every_option_shows_its_default_and_takes_another_as_it_is_called() -> None:
    shown = compose_run(["io=epoll", "io.options.port=1234", "variant=gc_frozen", "frontend=whole"])
    assert shown.io.options["port"] == 1234
    assert shown.io.options["max_frame_bytes"] == 1 << 20
    assert shown.gc.options == {"objects": 1_000_000, "words_per_answer": 0, "answers_kept": 50}
    assert (shown.frontend["vad"], shown.frontend["segment"]["padding_s"]) == ("none", 0.25)


@pytest.mark.parametrize("override", ["model=fixed_cost", "frontend=webrtc", "workload=streaming"])
def test_no_leaf_states_what_its_options_say(override: str) -> None:
    axis, _, leaf = override.partition("=")
    stated = yaml.safe_load((conf_dir() / axis / f"{leaf}.yaml").read_text())
    assert "options" not in stated
    assert compose_run([override])


def test_a_preset_s_mistake_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    preset = conf / "variant" / "gc_frozen.yaml"
    preset.write_text(preset.read_text().replace("objects", "objcets"))
    monkeypatch.setattr("harness.config.load.conf_dir", lambda: conf)
    with pytest.raises(
        UsageError, match=r"gc\.options\.objcets: no such key, did you mean gc.options.objects"
    ):
        compose_run(["variant=gc_frozen"])


def test_composing_every_variant_imports_no_torch() -> None:
    code = (
        "import sys; from harness.config.load import compose_run; "
        f"[compose_run([f'variant={{name}}']) for name in {VARIANTS}]; "
        "print(sorted({'torch', 'nemo', 'tensorrt', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_manual_names_every_key_of_a_choice() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.options", "io=epoll", "frontend=whole"],
        capture_output=True,
        text=True,
        check=True,
    )
    for text in ("io.options.port=0", "below 65,536", "the system chooses", "frontend.segment.threshold=0.3"):
        assert text in done.stdout
    assert "runner." not in done.stdout
