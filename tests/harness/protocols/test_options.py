"""The one mechanism behind every option: conversion, its refusals, and the manual made of the same class."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from harness.errors import UsageError
from harness.protocols.options import Count, NoOptions, Seconds, convert, documented, plain


@dataclass(frozen=True)
class Lens:
    width_mm: Seconds = 50.0
    """From end
    to end."""


@dataclass(frozen=True)
class Camera:
    name: str = ""
    frames: Annotated[int, Meta(ge=1, lt=100)] = 24
    colour: Literal["grey", "full"] = "full"
    flash: bool = False
    sizes: tuple[Count, ...] | None = None
    lens: Lens = field(default_factory=Lens)


def test_what_is_given_stands_over_the_defaults() -> None:
    camera = convert(Camera, {"frames": 25, "sizes": [1, 2], "lens": {"width_mm": 35}})
    assert camera == Camera(frames=25, sizes=(1, 2), lens=Lens(35.0))
    assert isinstance(camera.lens.width_mm, float)
    assert convert(Camera, plain(camera)) == camera


def test_a_name_may_look_like_a_number() -> None:
    assert convert(Camera, {"name": 7}).name == "7"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frames": "many"}, "camera.frames='many' has to be a whole number of at least 1 and below 100"),
        ({"frames": 100}, "camera.frames=100 has to be"),
        ({"frames": True}, "camera.frames=True has to be"),
        ({"frames": 1.5}, "camera.frames=1.5 has to be"),
        ({"flash": 1}, "camera.flash=1 has to be true or false"),
        ({"colour": "blue"}, "camera.colour='blue' has to be grey or full"),
        ({"colour": None}, "camera.colour=None has to be"),
        ({"sizes": [1, -1]}, "has to be a list, each a whole number of at least 0 or null"),
        ({"sizes": "12"}, "camera.sizes='12' has to be"),
        ({"lens": 50}, "camera.lens=50 has to be a group of keys"),
        ({"lens": {"width_mm": math.nan}}, "camera.lens.width_mm=nan has to be"),
        ({"lens": {"width_mm": math.inf}}, "camera.lens.width_mm=inf has to be finite"),
        ({"lens": {"witdh_mm": 1}}, r"witdh_mm: no such key, did you mean camera\.lens\.width_mm\?"),
        ({"zoom": 1}, "camera.zoom: no such key; there are name, frames, colour"),
    ],
)
def test_a_mistake_is_named_with_its_full_key_and_what_it_takes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(Camera, given, "camera")


def test_a_choice_without_options_says_so() -> None:
    with pytest.raises(UsageError, match=r"zoom: no such key; there are no options"):
        convert(NoOptions, {"zoom": 1}, "camera")


def test_the_manual_is_the_class() -> None:
    keys = {key.name: key for key in documented(Camera)}
    assert list(keys) == ["name", "frames", "colour", "flash", "sizes", "lens"]
    assert (keys["colour"].takes, keys["colour"].default) == ("grey or full", "full")
    assert keys["lens"].nested is Lens
    (width,) = documented(Lens)
    assert (width.takes, width.text) == ("a number of at least 0", "From end to end.")
