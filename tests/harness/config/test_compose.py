from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        "topology",
        "ipc",
        "io",
        "gc",
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
    ],
)
def test_a_mistake_is_named(override: str, names: str) -> None:
    with pytest.raises(UsageError, match=names) as error:
        compose_run([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["ipc=shared_memory"], ("topology=inprocess", "ipc=shared_memory")),
        (["topology=collapsed", "ipc=none"], ("topology=collapsed", "ipc=none")),
        (["workload=open", "workload.rate_per_s=0"], ("workload.mode=open", "workload.rate_per_s=0")),
        (["model.device=cpu", "model.precision=fp16"], ("model.device=cpu", "model.precision=fp16")),
        (["model.buckets_s=[5,1]"], ("model.buckets_s",)),
        (["runner.processes=0"], ("runner.processes=0",)),
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
    config = from_dict(
        {**to_dict(compose_run([])), "encoder": {"name": "x", "needs": ["gpu", "package:tensorrt"]}}
    )
    with pytest.raises(UnavailableError, match="no NVIDIA GPU") as error:
        check(config, Laptop())
    assert "tensorrt" in str(error.value)
    assert "encoder=x" in str(error.value)
