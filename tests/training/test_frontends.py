"""Word error rates behind the front ends: the device's are the host's, and one that is not is named."""

from __future__ import annotations

from harness.measure.wer import WordErrors
from training.evaluate import load_exported
from training.frontends import Row, apart, compare, report, table


def test_the_device_hears_what_the_host_hears_in_noise() -> None:
    found = compare(load_exported(), 5, noises_db=[10.0], filters=["none", "spectral_gate"], progress=False)
    bare, gated = found
    assert (bare.denoise, gated.denoise) == ("none", "spectral_gate")
    assert bare.host == bare.device
    assert sum(each.words for each in gated.host.values()) > 20
    assert apart([bare, gated]) == []


def test_more_errors_than_the_host_s_are_named() -> None:
    right = {str(n): WordErrors(0, 0, 0, 10) for n in range(20)}
    wrong = {str(n): WordErrors(0, 0, 1, 10) for n in range(20)}
    rows = [Row(5.0, "webrtc", right, wrong), Row(None, "none", right, right)]
    assert apart(rows) == ["webrtc, 5 dB"]
    assert "| 5 dB | `webrtc` | 0.00% | 10.00% | +10.00% [+10.00%, +10.00%] |" in table(rows)
    assert [row["device_wer"] for row in report(rows)] == [0.1, 0.0]
