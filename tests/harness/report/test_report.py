"""The page, the charts and the table in the terminal, of one run and of eight."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from harness.record import (
    GpuSample,
    Parity,
    ParityStatus,
    Reason,
    RunWriter,
    Status,
    Telemetry,
    Tolerance,
    Verdict,
    VerdictStatus,
    read_run,
)
from harness.report import text_summary, write_report
from harness.report.__main__ import main
from harness.report.content import HEADER, entries, transcripts, warnings
from harness.report.page import ANSWERS, DETAILS
from tests.harness.runs import Recipe, make_run, process_record, samples, unmeasured

CHARTS = ["latency.png", "percentiles.png", "rtf.png", "spans.png"]


class Outline(HTMLParser):
    """Tags that are open, sources of images, and text."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Bars(HTMLParser):
    """The widths of the pieces of each bar, in percent."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[list[float]] = []
        self.feed(page)

    def handle_starttag(self, _tag, attrs):
        given = dict(attrs)
        if given.get("class") == "bar":
            self.found.append([])
        width = re.match(r"width:([\d.]+)%", given.get("style", ""))
        if width:
            self.found[-1].append(float(width[1]))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("results"), Recipe("one", processes=2, requests=60))


def test_one_run_is_one_page_complete_in_itself(stored, tmp_path):
    page = write_report([stored], tmp_path / "report")
    outline = Outline(page.read_text())
    assert outline.open == []
    assert len(outline.images) == 4
    assert all(src.startswith("data:image/png;base64,") for src in outline.images)
    assert not re.search(r"<script|<link|https?://", page.read_text())
    assert sorted(p.name for p in page.parent.glob("*.png")) == CHARTS
    for needed in (
        "VALID",
        "0123abc",
        "torch 2.11.0",
        "p95",
        "RTFx",
        "I / D / S",
        "please turn the lights off",
    ):
        assert needed in outline.text


def test_the_same_run_gives_the_same_bytes(stored, tmp_path):
    first, second = write_report([stored], tmp_path / "a"), write_report([stored], tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_several_runs_are_compared_with_the_first(tmp_path):
    slower = make_run(tmp_path, Recipe("two", variant="slower", processes=3, requests=60, encoder_factor=1.5))
    base = make_run(tmp_path, Recipe("one", processes=3, requests=60))
    page = write_report([base, slower], tmp_path / "report").read_text()
    assert "Compared with eager" in page
    assert "worse" in page


def test_the_first_screen_answers_and_no_column_is_lost(stored, tmp_path):
    """And where the time goes, all bars to one scale; the other columns follow further down."""
    slower = make_run(tmp_path, Recipe("two", variant="slower", requests=20, encoder_factor=3.0))
    page = write_report([stored, slower], tmp_path / "report").read_text()
    first, rest = page.split("Before you quote this", 1)
    for name in ("verdict", "p50", "p95", "RTFx", "where the time goes"):
        assert f"<th>{name}</th>" in first
    bars = [sum(bar) for bar in Bars(first).found]
    assert bars == [pytest.approx(bars[0]), pytest.approx(100.0, abs=0.1)]
    assert bars[0] < 80
    assert {*ANSWERS, *DETAILS} == set(HEADER)
    assert all(f"<th>{name}</th>" in rest for name in DETAILS)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_no_table_is_wider_than_a_page_of_1200_pixels(tmp_path):
    runs = [
        make_run(tmp_path, Recipe(f"r{i}", variant=f"compiled · number {i}", processes=3)) for i in range(3)
    ]
    page = write_report(runs, tmp_path / "report")
    measure = (
        "<script>document.title = [...document.querySelectorAll('main, .answers, .scroll')]"
        ".filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText).join('|') || 'all fit'</script>"
    )
    page.write_text(page.read_text() + measure)
    browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    done = subprocess.run([*browser, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60)
    assert "<title>all fit</title>" in done.stdout


def test_eight_runs_fit(tmp_path):
    runs = [
        make_run(tmp_path, Recipe(f"r{i}", variant=f"v{i}", seed=i, processes=1, requests=20))
        for i in range(8)
    ]
    page = write_report(runs, tmp_path / "report").read_text()
    assert all(f"v{i}" in Outline(page).text for i in range(8))


def test_runs_of_one_variant_are_told_apart(stored):
    other = replace(stored, run=replace(stored.run, run_id="two"))
    assert [entry.label for entry in entries([stored, other])] == ["eager · one", "eager · two"]
    assert entries([stored])[0].label == "eager"
    named = replace(other, run=replace(other.run, config={**other.run.config, "runner": {"label": "mine"}}))
    assert [entry.label for entry in entries([stored, named])] == ["eager", "eager · mine"]


def test_what_users_wrote_cannot_break_the_page(stored, tmp_path):
    rows = stored.samples.assign(text="<b>& 'heard'</b>", reference_text="<i>said</i>")
    outline = Outline(write_report([replace(stored, samples=rows)], tmp_path).read_text())
    assert outline.open == []
    assert "<b>& 'heard'</b>" in outline.text


def test_the_terminal_shows_percentiles_spans_words_and_warnings(stored):
    text = text_summary(stored)
    for needed in (
        "00-02s",
        "weighted",
        "p99",
        "encoder",
        "unaccounted",
        "RTFx",
        "WER",
        "said ",
        "heard ",
        "warning:",
    ):
        assert needed in text
    assert "n too small for p99; raise workload.requests until 299" in text


def test_an_hour_of_words_does_not_fill_the_terminal(tmp_path):
    talkative = make_run(
        tmp_path, Recipe("long", processes=1, requests=60, say=lambda text: f"{text} " * 500)
    )
    lines = text_summary(talkative).splitlines()
    (first, *_) = [line for line in lines if line.startswith("heard ")]
    assert first.endswith(" …")
    assert max(map(len, lines)) < 300


def test_a_median_that_is_hardly_known_is_a_warning_with_a_remedy(tmp_path):
    noisy = make_run(tmp_path, Recipe("noisy", processes=3, requests=20, noise=0.8))
    (found,) = [w for w in warnings(entries([noisy])[0]) if "is known to" in w]
    assert "raise runner.processes" in found


def test_other_answers_withhold_the_speed_everywhere(stored, tmp_path):
    parity = Parity(
        ParityStatus.DIFFERENT, "eager", Tolerance(), 40, 3, "3 of 40 recordings have other tokens"
    )
    bad = replace(
        stored,
        run=replace(
            stored.run,
            parity=parity,
            verdict=Verdict(VerdictStatus.INVALID, (Reason("parity", parity.message),)),
        ),
    )
    text = text_summary(bad)
    assert "speed withheld: 3 of 40" in text
    assert " ms" not in text
    outline = Outline(write_report([bad], tmp_path).read_text())
    assert outline.images == []
    assert Bars((tmp_path / "report.html").read_text()).found == []
    assert "withheld" in outline.text


def test_an_interrupted_run_shows_what_it_has(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(Recipe("cut")))
    with writer.journal(process_record(0)) as journal:
        for sample in samples(Recipe(requests=8), 0):
            journal.append(sample)
    text = text_summary(read_run(writer.folder))
    assert "INCOMPLETE" in text
    assert "11 samples were kept. Measure again" in text


def test_a_run_without_any_success_still_reads(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(Recipe("failed")))
    with writer.journal(process_record(0)) as journal:
        for sample in samples(Recipe(requests=3), 0):
            journal.append(replace(sample, error="not audio", text="", token_ids=()))
        journal.finish(process_record(0))
    failed = writer.finish(replace(writer.run, status=Status.FAILED))
    assert "3 of 3 requests failed" in text_summary(failed)
    assert Outline(write_report([failed], tmp_path / "report").read_text()).images == []


def test_a_run_of_recordings_without_a_length_still_reads(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(Recipe("lengthless")))
    with writer.journal(process_record(0)) as journal:
        for sample in samples(Recipe(requests=3), 0):
            journal.append(replace(sample, audio_s=0.0, bucket="unknown"))
        journal.finish(process_record(0))
    lengthless = writer.finish(replace(writer.run, status=Status.COMPLETE))
    assert "unknown" in text_summary(lengthless)
    assert Outline(write_report([lengthless], tmp_path / "report").read_text()).open == []


def test_a_gpu_that_throttled_is_a_warning_with_a_remedy(stored):
    readings = (
        GpuSample(0.0, throttle_reasons=("sw_power_cap",)),
        GpuSample(0.5, throttle_reasons=("gpu_idle",)),
    )
    cool, hot_one = stored.run.processes[:2]
    hot_one = replace(hot_one, telemetry=(Telemetry("A GPU", 0.5, readings),))
    hot = replace(stored, run=replace(stored.run, processes=(cool, hot_one)))
    (found,) = [w for w in warnings(entries([hot])[0]) if "throttled" in w]
    assert "sw_power_cap" in found
    assert "50%" in found
    assert "nvidia-smi" in found


def test_transcripts_come_from_every_bucket(stored):
    assert len({line.request_id.rsplit("-", 1)[0] for line in transcripts(entries([stored])[0], 3)}) == 3


def test_the_command_writes_beside_the_run_and_says_where(stored, capsys):
    assert main([str(stored.folder)]) == 0
    assert str(stored.folder / "report" / "report.html") in capsys.readouterr().out
    assert (stored.folder / "report" / "report.html").is_file()


def test_a_folder_that_is_no_run_is_one_line_on_stderr(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
