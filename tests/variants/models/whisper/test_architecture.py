"""Whisper's sizes, and what a machine without openai-whisper is told."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from harness.errors import HarnessError, UnavailableError
from variants.models.whisper import architecture
from variants.models.whisper.architecture import BASE, LARGE_V3, LARGE_V3_TURBO, TINY_EN, build_modules


@pytest.mark.parametrize("size", [LARGE_V3, LARGE_V3_TURBO, BASE, TINY_EN], ids=lambda s: s.n_text_layer)
def test_openai_whisper_builds_the_sizes_that_are_stated(size: architecture.WhisperArchitecture) -> None:
    pytest.importorskip("whisper", reason="needs the extra whisper")
    modules = build_modules(size, initialize=False)  # checks the number of parameters
    assert modules.dims.n_text_layer == size.n_text_layer
    assert modules.is_multilingual == (size is not TINY_EN)


def test_another_number_of_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("whisper", reason="needs the extra whisper")
    other = dataclasses.replace(TINY_EN, n_text_layer=1)
    monkeypatch.setattr(architecture, "PARAMETERS", {other: 37_184_256})
    with pytest.raises(HarnessError, match="parameters, not 37,184,256"):
        build_modules(other, initialize=False)


def test_without_openai_whisper_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "whisper"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(UnavailableError, match=r"speech-serving-bench\[whisper\]"):
        build_modules(TINY_EN)
