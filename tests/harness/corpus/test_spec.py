"""Specifications are checked to the last key, and refusals say what to write instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.corpus.encode import CONTAINERS
from harness.corpus.spec import available, load_spec
from harness.errors import UsageError
from harness.paths import datasets_dir

from .conftest import TINY, WriteSpec

SETS = (
    "commands",
    "meetings",
    "mixed",
    "offline_20h",
    "offline_20m",
    "profile_edges",
    "read_speech",
    "smoke",
    "voice_agent",
)


def test_the_projects_sets_are_all_valid() -> None:
    assert available(datasets_dir()) == list(SETS)
    for name in SETS:
        assert load_spec(name, datasets_dir()).name == name


def test_smoke_covers_every_container_and_mixed_every_other_kind() -> None:
    (kind, _) = load_spec("smoke", datasets_dir()).kinds[0]
    assert {name for name, _ in kind.containers} == set(CONTAINERS)
    kinds = [kind for kind, _ in load_spec("mixed", datasets_dir()).kinds]
    for name in ("commands", "voice_agent", "read_speech", "meetings"):
        assert load_spec(name, datasets_dir()).kinds[0][0] in kinds


def test_datasets_folder_holds_no_python() -> None:
    # It would shadow the package "datasets", which NeMo imports.
    assert not list(datasets_dir().rglob("*.py"))


def refusal(specs_dir: Path, name: str = "tiny") -> str:
    with pytest.raises(UsageError) as caught:
        load_spec(name, specs_dir)
    return str(caught.value)


@pytest.mark.parametrize("key", [*TINY])
def test_every_key_is_required(write_spec: WriteSpec, specs_dir: Path, key: str) -> None:
    path = write_spec(without=key)
    message = refusal(specs_dir)
    assert str(path) in message
    assert f"{key} is missing" in message


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"items": 0}, ["items is 0", "whole number from 1"]),
        ({"items": 2.5}, ["items is 2.5", "whole number"]),
        ({"items": True}, ["items is True"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"containers": {"aiff": 1}}, ["containers", "aiff", "wav, flac, mp3, m4a, webm, ogg"]),
        ({"containers": {}}, ["containers is {}"]),
        ({"containers": {"wav": -1}}, ["containers", "positive weights"]),
        ({"containers": ["wav"]}, ["containers", "positive weights"]),
        ({"sample_rates": {9000: 1}}, ["sample_rates", "9000", "16000"]),
        ({"channels": {3: 1}}, ["channels", "1, 2"]),
        ({"snr_db": [30, 10]}, ["snr_db", "[low, high]"]),
        ({"snr_db": 10}, ["snr_db", "[low, high]"]),
        ({"speech_ratio": [0.5, 1.5]}, ["speech_ratio", "0.05 to 1"]),
        ({"speech_ratio": None}, ["speech_ratio is None"]),
        ({"text": "novel"}, ["text is 'novel'", "voice_agent"]),
        ({"voices": ["nobody"]}, ["voices", "nobody", "us_male_1"]),
        ({"voices": [{}]}, ["voices", "us_male_1"]),
        ({"speakers": 99}, ["speakers is 99"]),
        ({"bucket_edges_s": [2, 1]}, ["bucket_edges_s", "ascending"]),
        ({"description": ""}, ["description"]),
        ({"contianers": {"wav": 1}}, ["unknown key contianers", "did you mean 'containers'"]),
        ({"lengths": 3}, ["lengths is 3", "a mapping"]),
        ({"lengths": {"distribution": "normal"}}, ["lengths.distribution is 'normal'", "lognormal"]),
        (
            {"lengths": {"distribution": "uniform", "min_s": 0.1, "max_s": 1}},
            ["lengths.min_s is 0.1", "from 0.3"],
        ),
        ({"lengths": {"distribution": "uniform", "min_s": 2, "max_s": 1}}, ["lengths.max_s is 1", "from 2"]),
        (
            {"lengths": {"distribution": "uniform", "min_s": 1, "max_s": 2, "sigma": 1}},
            ["unknown key lengths.sigma"],
        ),
    ],
)
def test_refusals_name_file_key_and_what_is_allowed(
    write_spec: WriteSpec, specs_dir: Path, changes: dict[str, Any], fragments: list[str]
) -> None:
    path = write_spec(**changes)
    message = refusal(specs_dir)
    assert str(path) in message
    for fragment in fragments:
        assert fragment in message


def test_unknown_set_is_refused_with_the_nearest_name() -> None:
    message = refusal(datasets_dir(), "smokes")
    assert "did you mean 'smoke'" in message
    assert "profile_edges" in message


def test_a_file_that_is_not_a_mapping_is_refused(specs_dir: Path) -> None:
    for text in ("- a\n- b\n", "a: [1,", "\xff"):
        (specs_dir / "tiny.yaml").write_text(text, encoding="latin-1")
        assert "tiny.yaml" in refusal(specs_dir)


def test_a_mixture_takes_other_sets_but_no_mixture_and_what_it_says_of_recordings_stands_for_all(
    write_spec: WriteSpec, specs_dir: Path
) -> None:
    write_spec("plain")
    mixture: dict[str, Any] = {key: TINY[key] for key in ("description", "items", "seed", "bucket_edges_s")}

    def write(**changes: Any) -> None:
        (specs_dir / "both.yaml").write_text(yaml.safe_dump({**mixture, **changes}), encoding="utf-8")

    write(lengths={"distribution": "mixture", "weights": {"plain": 2}})
    ((plain, _),) = load_spec("plain", specs_dir).kinds
    assert load_spec("both", specs_dir).kinds == ((plain, 2.0),)
    write(lengths={"distribution": "mixture", "weights": {"both": 1}})
    assert "of plain" in refusal(specs_dir, "both")
    write(lengths={"distribution": "mixture", "weights": {"plain": 1}}, containers={"ogg": 1})
    ((kind, _),) = load_spec("both", specs_dir).kinds
    assert kind == replace(plain, containers=(("ogg", 1.0),))
    write(lengths={"distribution": "mixture", "weights": {"plain": 1}}, speaker=2)
    assert "unknown key speaker" in refusal(specs_dir, "both")
