"""One HTML page about one or several runs, complete in itself: no script, nothing to fetch."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from harness.compare import effect_cells, notes
from harness.errors import InvalidMeasurementError, NotComparableError
from harness.files import explained, write_atomically, write_text
from harness.measure.live import figure_rows
from harness.measure.metrics import ALL, metric
from harness.measure.text import NOTHING, duration, number, seconds
from harness.measure.wer import normalize
from harness.record import StoredRun
from harness.record.codec import to_json
from harness.report.charts import PART_COLORS, UNACCOUNTED, charts
from harness.report.content import (
    EDITS,
    HEADER,
    WITHHELD,
    Entry,
    Spoken,
    conditions,
    entries,
    headline,
    is_valid,
    offline_rows,
    transcripts,
    unaccounted_text,
    warnings,
)
from harness.side_by_side import compare_runs

PAGE = "report.html"
ANSWERS = ("run", "verdict", "p50", "p95", "RTFx")
DETAILS = ("run", "requests", "p90", "p99", "RTF p50", "WER", EDITS, "memory")
_VISIBLE = 0.02
"""Share of a request from which on a part is in the legend."""
_WITH_INTERVAL = re.compile(r"(?P<value>\S+) (?P<interval>\[.*\])(?P<unit>.*)")
_ALT = {
    "latency.png": "Share of requests answered within a time, per run",
    "percentiles.png": "Median and 95th percentile of latency per length bucket",
    "spans.png": "Mean time in each span",
    "rtf.png": "Real-time factor against audio length",
    "load.png": "Latency against requests answered a second, over the loads of a sweep",
}
_COMPARED = (
    "latency.p50",
    "latency.p95",
    "span.encoder.p50",
    "span.decoder.p50",
    "rtfx",
    "wer",
    "memory.rss",
)
_COMPARED_OFFLINE = ("rtfx", "wer", "memory.rss", "memory.gpu")


def write_report(runs: Sequence[StoredRun], out: Path) -> Path:
    """Write the page and its charts into ``out``; returns the page's path.

    Raises ``UsageError`` or ``UnavailableError`` naming ``out`` where it cannot be written.
    """
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    shown = entries(runs)
    images = charts(shown)
    for name, png in images.items():
        write_atomically(out / name, lambda file, png=png: file.write(png))  # type: ignore[misc]
    text = page(shown, images)
    write_text(out / PAGE, text)
    return out / PAGE


def page(shown: Sequence[Entry], images: dict[str, bytes]) -> str:
    """The page as text; ``images`` are embedded."""
    title = ", ".join(entry.label for entry in shown)
    sections = [
        _top(shown),
        _answers(shown),
        _offline(shown),
        _live(shown),
        _warnings(shown),
        "".join(image(_ALT[name], png) for name, png in images.items()),
        _details_table(shown),
        _comparisons(shown),
        _buckets(shown),
        _transcripts(shown),
        _provenance(shown),
        _evidence(shown),
    ]
    return document(title, sections)


def document(title: str, sections: Iterable[str]) -> str:
    """A page of the sections that are not empty, with its style."""
    css = (Path(__file__).parent / "style.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _top(shown: Sequence[Entry]) -> str:
    title = "Speech-to-text serving: " + (shown[0].label if len(shown) == 1 else f"{len(shown)} runs")
    lines = dict.fromkeys(conditions(entry.stored) for entry in shown)
    return f"<h1>{escape(title)}</h1>" + "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)


def _answers(shown: Sequence[Entry]) -> str:
    """What the first screen says: may it be quoted, how fast is it, where does the time go."""
    means_s = [sum(_parts(entry).values()) for entry in shown]
    body = "".join(
        row([*_cells(entry, ANSWERS), _bar(_parts(entry), max(means_s, default=0.0))]) for entry in shown
    )
    note = (
        "Latency from the scheduled arrival; percentiles by nearest rank with 95 % intervals. RTFx is audio "
        "over wall time, of the whole run. Bars: the mean request, all to one scale."
    )
    header = (*ANSWERS, "where the time goes")
    return f'<div class="answers">{table_of(header, body)}</div>{_legend(shown)}<p class="quiet">{note}</p>'


def _live(shown: Sequence[Entry]) -> str:
    """Live streams, a table for each process that had any."""
    tables = []
    for entry in shown:
        for process in entry.stored.run.processes:
            figures = process.evidence.get("streaming")
            if figures and not entry.withheld:
                body = "".join(row([escape(name), escape(text)]) for name, text in figure_rows(figures))
                header = (f"{entry.label}, process {process.index}", "")
                tables.append(f'<div class="scroll">{table_of(header, body)}</div>')
    return f"<h2>Live streams</h2>{''.join(tables)}" if tables else ""


def _details_table(shown: Sequence[Entry]) -> str:
    body = "".join(row(_cells(entry, DETAILS)) for entry in shown)
    note = "RTF is processing over audio, of one request."
    return (
        f'<h2>More figures</h2><div class="scroll">{table_of(DETAILS, body)}</div><p class="quiet">{note}</p>'
    )


def _cells(entry: Entry, names: Sequence[str]) -> list[str]:
    found = dict(zip(HEADER, headline(entry), strict=True))
    return [_badge(found[name]) if name == "verdict" else figure_cell(found[name]) for name in names]


def _parts(entry: Entry) -> dict[str, float]:
    """Mean seconds of each span of a request, and what no span explains; empty where it may not be told."""
    overall = entry.summary.overall
    if overall is None or not entry.drawable or not entry.has_ledger:
        return {}
    spans = {name: value for name, value in overall.spans.items() if value > 0}
    return {**spans, UNACCOUNTED: max(0.0, overall.unaccounted_s)}


def _bar(parts: Mapping[str, float], longest_s: float) -> str:
    if not parts:
        return NOTHING
    pieces = "".join(
        f'<i style="width:{value / longest_s:.2%};background:{PART_COLORS[name]}" '
        f'title="{escape(name)} {escape(seconds(value))}"></i>'
        for name, value in parts.items()
    )
    return f'<div class="bar">{pieces}</div>'


def _legend(shown: Sequence[Entry]) -> str:
    """The parts that somebody can see, in the order of a request."""
    seen = {
        name
        for entry in shown
        for name, value in _parts(entry).items()
        if value > _VISIBLE * sum(_parts(entry).values())
    }
    named = (
        f'<span><i style="background:{color}"></i>{escape(name)}</span>'
        for name, color in PART_COLORS.items()
        if name in seen
    )
    return f'<p class="legend">{"".join(named)}</p>' if seen else ""


def _warnings(shown: Sequence[Entry]) -> str:
    blocks = []
    for entry in shown:
        found = list(warnings(entry))
        if found:
            kind = "warnings" if is_valid(entry) else "warnings bad"
            items = "".join(f"<li>{escape(warning)}</li>" for warning in found)
            blocks.append(f'<div class="{kind}"><strong>{escape(entry.label)}</strong><ul>{items}</ul></div>')
    return f"<h2>Before you quote this</h2>{''.join(blocks)}" if blocks else ""


def _offline(shown: Sequence[Entry]) -> str:
    tables = [
        (entry.label, "".join(row(map(escape, each)) for each in offline_rows(entry))) for entry in shown
    ]
    blocks = [f"<h3>{escape(label)}</h3>{table_of(('', ''), body)}" for label, body in tables if body]
    return f"<h2>Offline</h2>{''.join(blocks)}" if blocks else ""


def _comparisons(shown: Sequence[Entry]) -> str:
    if len(shown) < 2:
        return ""
    blocks = "".join(_comparison(shown[0], other) for other in shown[1:])
    return f"<h2>Compared with {escape(shown[0].label)}</h2>{blocks}"


def _comparison(base: Entry, other: Entry) -> str:
    title = f"<h3>{escape(other.label)}</h3>"
    try:
        names = _COMPARED if base.has_latency else _COMPARED_OFFLINE
        compared = compare_runs(base.stored, other.stored, [metric(name) for name in names])
    except (NotComparableError, InvalidMeasurementError) as error:
        return f'{title}<p class="quiet">no ratios: {escape(str(error))}</p>'
    header = ("metric", "scope", base.label, other.label, "ratio", "95 % interval", "verdict")
    told = [e for e in compared.effects if e.scope == ALL or e.metric.name.startswith("latency")]
    rows = "".join(row(map(escape, effect_cells(effect))) for effect in told)
    withheld = f"<p>speed withheld: {escape(compared.withheld)}</p>" if compared.withheld else ""
    remarks = "".join(f'<p class="quiet">{escape(note)}</p>' for note in notes(compared))
    return f'{title}{withheld}<div class="scroll">{table_of(header, rows)}</div>{remarks}'


def _buckets(shown: Sequence[Entry]) -> str:
    header = ("scope", "requests", "audio", "p50", "p90", "p95", "p99", "RTF p50")
    blocks = []
    for entry in shown:
        if entry.summary.overall is None or not entry.has_latency:
            continue
        if entry.withheld:
            blocks.append(f"<h3>{escape(entry.label)}</h3><p>{WITHHELD}</p>")
            continue
        rows = "".join(
            row(
                [
                    escape(scope.name),
                    str(scope.requests),
                    seconds(scope.audio_s),
                    *(figure_cell(duration(figure)) for figure in scope.latency.values()),
                    figure_cell(number(scope.rtf["p50"])),
                ]
            )
            for scope in entry.summary.scopes
        )
        share = f'<p class="quiet">unaccounted: {unaccounted_text(entry)}</p>' if entry.has_ledger else ""
        blocks.append(
            f'<h3>{escape(entry.label)}</h3><div class="scroll">{table_of(header, rows)}</div>{share}'
        )
    remark = "“weighted” gives each bucket its share of the audio set, however often it was served."
    note = f'<p class="quiet">{remark}</p>'
    return f"<h2>Latency per length bucket</h2>{note}{''.join(blocks)}" if blocks else ""


def _transcripts(shown: Sequence[Entry]) -> str:
    blocks = []
    for entry in shown:
        spoken = transcripts(entry, count=6)
        if spoken:
            body = "".join(row([escape(line.request_id), *_said_and_heard(line)]) for line in spoken)
            title = f"<h3>{escape(entry.label)}</h3>" if len(shown) > 1 else ""
            blocks.append(
                f'{title}<table class="words">{_head(("recording", "said", "heard"))}{body}</table>'
            )
    return f"<h2>What it heard</h2>{''.join(blocks)}" if blocks else ""


def _said_and_heard(line: Spoken) -> tuple[str, str]:
    """Reference and transcript, the words that only the transcript has marked."""
    if line.reference is None:
        return '<span class="quiet">no transcript</span>', escape(line.text)
    expected = set(normalize(line.reference).split())
    words = (
        escape(w) if normalize(w) in expected else f"<mark>{escape(w)}</mark>" for w in line.text.split()
    )
    return escape(line.reference), " ".join(words)


def _provenance(shown: Sequence[Entry]) -> str:
    blocks = []
    for entry in shown:
        facts = "".join(row([escape(name), escape(value)]) for name, value in _facts(entry.stored))
        blocks.append(f'<h3>{escape(entry.label)}</h3><table class="facts">{facts}</table>')
    return f"<h2>Where it comes from</h2>{''.join(blocks)}"


def _facts(stored: StoredRun) -> Iterator[tuple[str, str]]:
    run, origin = stored.run, stored.run.provenance
    commit = origin.git.commit or "no repository"
    dirty = " with uncommitted changes" if origin.git.dirty else ""
    yield "run", f"{run.run_id}, {run.created_utc}"
    if origin.command:
        yield "command", " ".join(origin.command)
    yield "code", f"{commit}{dirty}, sources {origin.git.source_hash}"
    yield "model", f"{origin.model.name}, weights {origin.model.weights} {origin.model.weights_hash[:16]}"
    data = origin.dataset
    yield (
        "audio set",
        f"{data.name}: {data.items} recordings, {seconds(data.audio_s)}, {data.content_hash[:16]}",
    )
    yield "machine", f"{origin.cpu}, {origin.cpu_count} cores, {origin.os}, Python {origin.python}"
    for gpu in origin.gpus:
        limit = f", limited to {gpu.power_limit_w:.0f} W" if gpu.power_limit_w else ""
        yield "GPU", f"{gpu.name}, driver {gpu.driver}{limit}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in origin.packages.items())
    yield "comparability key", run.comparability.key
    if run.parity is not None:
        yield "output", f"{run.parity.status}: {run.parity.message}"


def _evidence(shown: Sequence[Entry]) -> str:
    blocks = []
    for entry in shown:
        run = entry.stored.run
        if run.evidence:
            blocks.append(_details(f"{entry.label}: evidence that it engaged", to_json(run.evidence)))
        blocks.append(_details(f"{entry.label}: configuration", to_json(run.config)))
    return f"<h2>Evidence and configuration</h2>{''.join(blocks)}"


def _details(title: str, document: object) -> str:
    text = escape(json.dumps(document, indent=2, ensure_ascii=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"


def image(alt: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}"></figure>'


def figure_cell(cell: str) -> str:
    """A figure above its interval, so that a table of many figures fits the page."""
    match = _WITH_INTERVAL.fullmatch(cell)
    if match is None:
        return escape(cell)
    return f"{escape(match['value'] + match['unit'])}<small>{escape(match['interval'])}</small>"


def _badge(verdict: str) -> str:
    return f'<span class="badge {escape(verdict.split()[0])}">{escape(verdict)}</span>'


def table_of(header: Sequence[str], body: str) -> str:
    return f"<table>{_head(header)}{body}</table>"


def _head(header: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"


def row(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
