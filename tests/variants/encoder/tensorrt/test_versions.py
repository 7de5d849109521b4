"""The differences between releases, on stand-ins with the names that each release offers."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UnavailableError
from variants.encoder.tensorrt import versions
from variants.encoder.tensorrt.logs import Messages
from variants.encoder.tensorrt.phases import Phases


def release(version: str, **names: Any) -> Any:
    return SimpleNamespace(__name__="tensorrt", __version__=version, **names)


OLD = release(
    "8.6.0",
    NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
    BuilderFlag=SimpleNamespace(FP16="FP16"),
    PreviewFeature=SimpleNamespace(PROFILE_SHARING_0806="share"),
    TacticSource=SimpleNamespace(CUBLAS=0, CUDNN=2, EDGE_MASK_CONVOLUTIONS=3),
)
TEN = release(
    "10.13.3",
    NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1),
    BuilderFlag=SimpleNamespace(FP16="FP16", BF16="BF16"),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    TacticSource=SimpleNamespace(EDGE_MASK_CONVOLUTIONS=3),
)
ELEVEN = release(
    "11.3.0",
    NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
    BuilderFlag=SimpleNamespace(),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    TacticSource=SimpleNamespace(EDGE_MASK_CONVOLUTIONS=3),
)


class Config:
    def __init__(self) -> None:
        self.set: dict[str, Any] = {}

    def set_flag(self, flag: str) -> None:
        self.set["flag"] = flag

    def set_preview_feature(self, feature: str, on: bool) -> None:
        self.set["feature"] = (feature, on)

    def set_tactic_sources(self, sources: int) -> None:
        self.set["sources"] = sources


@pytest.mark.parametrize(("trt", "flags"), [(OLD, 0b1), (TEN, 0b10), (ELEVEN, 0b10)])
def test_networks_are_strongly_typed_where_that_exists(trt: Any, flags: int) -> None:
    assert versions.create_network(trt, SimpleNamespace(create_network=lambda given: given)) == flags


@pytest.mark.parametrize(
    ("trt", "precision", "expected"),
    [(OLD, "fp16", {"flag": "FP16"}), (OLD, "fp32", {}), (TEN, "bf16", {}), (ELEVEN, "fp16", {})],
)
def test_only_weak_types_need_a_flag(trt: Any, precision: str, expected: dict[str, str]) -> None:
    config = Config()
    versions.allow_precision(trt, config, precision)
    assert config.set == expected


def test_a_precision_that_the_release_lacks_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"8\.6\.0 knows no bf16"):
        versions.allow_precision(OLD, Config(), "bf16")


def test_contexts_share_a_profile_in_every_release() -> None:
    old, new = Config(), Config()
    versions.share_profiles(OLD, old)
    versions.share_profiles(TEN, new)
    assert old.set == {"feature": ("share", True)}
    assert new.set == {}


@pytest.mark.parametrize(
    ("trt", "names", "mask"),
    [
        (OLD, ("EDGE_MASK_CONVOLUTIONS",), 0b1000),
        (OLD, (), 0),
        (ELEVEN, ("CUBLAS", "EDGE_MASK_CONVOLUTIONS"), 0b1000),
    ],
)
def test_tactic_sources_are_those_named(trt: Any, names: tuple[str, ...], mask: int) -> None:
    config = Config()
    versions.set_tactic_sources(trt, config, names)
    assert config.set == {"sources": mask}


def test_unnamed_tactic_sources_are_tensorrt_s_choice() -> None:
    config = Config()
    versions.set_tactic_sources(OLD, config, None)
    assert config.set == {}


def test_contexts_come_without_memory_of_their_own() -> None:
    old = SimpleNamespace(create_execution_context_without_device_memory=lambda: "old")
    new = SimpleNamespace(create_execution_context=lambda strategy: strategy)
    for trt, engine, made in ((OLD, old, "old"), (TEN, new, "user")):
        settings = versions.context_settings(trt, engine, planned=True, captures_itself=False, kernels=b"")
        assert versions.create_context(engine, settings) == made
        assert versions.compiled_kernels(trt, settings) == b""


def test_memory_is_asked_for_and_given_by_either_name() -> None:
    assert versions.activation_bytes(SimpleNamespace(device_memory_size=5)) == 5
    assert versions.activation_bytes(SimpleNamespace(device_memory_size_v2=7)) == 7
    old = SimpleNamespace(device_memory=0)
    versions.give_memory(old, 4096, 10)
    assert old.device_memory == 4096
    given: list[tuple[int, int]] = []
    versions.give_memory(SimpleNamespace(set_device_memory=lambda *a: given.append(a)), 4096, 10)
    assert given == [(4096, 10)]


def test_a_build_is_watched_and_stopped_where_the_release_offers_it() -> None:
    class Base:
        pass

    seen: list[tuple[str, int, int]] = []
    stop = False
    phases = Phases(1, lambda *step: seen.append(step))
    config = SimpleNamespace(progress_monitor=None)
    assert versions.watch(release("10.0", IProgressMonitor=Base), config, phases, lambda: stop)
    monitor: Any = config.progress_monitor
    monitor.phase_start("Timing", None, 4)
    assert monitor.step_complete("Timing", 0)
    stop = True
    assert not monitor.step_complete("Timing", 1)
    monitor.phase_finish("Timing")
    assert seen == [("Timing", 0, 4), ("Timing", 1, 4), ("Timing", 2, 4), ("Timing", 4, 4)]
    assert not versions.watch(OLD, config, phases, lambda: stop)


def test_profiles_that_are_done_say_how_long_the_others_take() -> None:
    now, said = [0.0], []
    phases = Phases(3, lambda what, *_: said.append(what), lambda: now[0])
    phases.start("Computing profile costs", "Building", 3)
    for at_s in (0.0, 60.0, 100.0):
        now[0] = at_s
        phases.start("Timing tactics", "Computing profile costs", 5)
    now[0] = 110.0
    phases.step("Timing tactics", 1)
    assert said[1:] == [
        "profile 1 of 3, Timing tactics",
        "profile 2 of 3, about 120 s left, Timing tactics",
        "profile 3 of 3, about 50 s left, Timing tactics",
        "profile 3 of 3, about 40 s left, Timing tactics",
    ]


@pytest.mark.parametrize(("runtime", "oldest"), [("tensorrt", "8.5.3"), ("tensorrt_rtx", "1.4.0.76")])
def test_an_old_release_is_unavailable(
    runtime: versions.Runtime, oldest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(__name__=runtime, __version__=oldest)
    monkeypatch.setitem(sys.modules, runtime, found)
    with pytest.raises(UnavailableError, match=f"{re.escape(oldest)} is older"):
        versions.load(runtime)


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"tensorrt", "tensorrt_rtx"}, "tensorrt"),
        ({"tensorrt_rtx"}, "tensorrt_rtx"),
        ({"tensorrt"}, "tensorrt"),
        (set(), "tensorrt"),
    ],
)
def test_tensorrt_rtx_is_taken_where_it_alone_is_installed(
    installed: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in installed or None)
    assert versions.choose("auto") == chosen
    assert versions.choose("tensorrt_rtx") == "tensorrt_rtx"


def test_errors_are_kept_and_explained() -> None:
    messages = Messages()
    assert "no reason" in messages.explain()
    for severity, text in (
        ("VERBOSE", "chatter"),
        ("ERROR", "no kernel "),
        ("INTERNAL_ERROR", "out of memory"),
    ):
        messages.add(severity, text)
    assert messages.explain() == "no kernel; out of memory"
