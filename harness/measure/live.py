"""What was measured of live streams, in words: a row for each figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def figures_text(figures: Mapping[str, Any]) -> str:
    """For a terminal."""
    return "\n".join(f"{name:20} {text}" for name, text in figure_rows(figures))


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of a streaming process in words; seconds as milliseconds. Older runs have fewer."""

    of_chunks = figures.get("acknowledged", True)  # else from the end of speech
    answered = "chunk latency" if of_chunks else "final text"
    per_stream = [
        ("jitter p50, p95", f"{_ms(figures['jitter_p50_s'])}, {_ms(figures['jitter_p95_s'])}"),
        ("final text p50, p95", f"{_ms(figures['final_p50_s'])}, {_ms(figures['final_p95_s'])}"),
        ("worst stream's p95", _ms(figures["worst_connection_p95_s"])),
    ]
    refused = f", {count} refused" if (count := figures.get("refused_streams")) else ""
    rows = [
        (
            "streams",
            f"{figures['connections']}{refused}, of {figures['chunks']} chunks {figures['lost_chunks']} lost",
        ),
        (f"{answered} p50", _ms(figures["p50"])),
        (f"{answered} p95", _ms(figures["p95"])),
        (f"{answered} p99", _ms(figures["p99"])),
        ("first text p50, p95", f"{_ms(figures['first_text_p50_s'])}, {_ms(figures['first_text_p95_s'])}"),
        *(per_stream if of_chunks else ()),
        ("clients' lag p99", _ms(figures["lag_p99_s"])),
    ]
    if "real_time_factor_max" in figures:
        rows.append(("worst stream's RTF", f"{figures['real_time_factor_max']:.3f}"))
        rows.append(("words taken back", _stability(figures)))
    if search := figures.get("search"):
        rows.append(("largest load", _carried(search, answered)))
    return rows


def _stability(figures: Mapping[str, Any]) -> str:
    """Of the texts that were shown while streams spoke."""
    words, streams = figures["retracted_words"], figures["retracting_streams"]
    return f"{words} by {streams} streams, {figures['final_words']} words in the end"


def _carried(search: Mapping[str, Any], answered: str) -> str:
    """The number, and what it means to carry a stream."""
    limits = f"p95 of {answered} at most {_ms(search['limit_s'])}"
    if final_s := search.get("final_limit_s"):
        limits += f", of the time from the end of speech to the final text (of all, if few) {_ms(final_s)}"
    held = f"{search['largest']} streams" if search["largest"] else "not one stream"
    return f"{held}: {limits}; none failed, was refused or lost a chunk"


def _ms(value: Any) -> str:
    """A measured percentile with its interval, a plain one, or why there is none."""
    if isinstance(value, Mapping):
        if "value" not in value:
            return f"n too small ({value['n']} of {value['needed']})"
        return f"{value['value'] * 1e3:.2f} [{value['low'] * 1e3:.2f}, {value['high'] * 1e3:.2f}] ms"
    return "n too small" if value is None else f"{value * 1e3:.2f} ms"
