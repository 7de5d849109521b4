"""What the parts of a service are told of the audio set."""

from __future__ import annotations

from functools import partial

import pytest

from harness.config.load import compose_run
from harness.run.service import make_spec
from variants.serving.spec import segment_lengths_s


def test_a_recording_reaches_the_model_in_pieces() -> None:
    assert segment_lengths_s([75.0, 30.0, 2.5], 30.0) == pytest.approx([30.0, 30.0, 15.0, 30.0, 2.5])


def test_no_part_hears_of_a_length_beyond_the_longest_segment() -> None:
    """What they allocate follows it: an hour of audio is 120 segments, not positions for an hour."""
    config = compose_run(["frontend.segment.max_segment_s=20"])
    make_engine = make_spec(config, [3600.0, 3.0]).make_engine
    assert isinstance(make_engine, partial)
    assert max(make_engine.args[-1]) == 20.0
    assert sum(make_engine.args[-1]) == pytest.approx(3603.0)
