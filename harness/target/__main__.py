"""``python -m harness.target``: one request to a target, and what was understood of its answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import isnan

from harness.audio.decode import decode
from harness.audio.limits import Limits
from harness.audio.target import Target
from harness.command import command, end_on_signals, guarded
from harness.config.load import compose_run
from harness.config.rules import check
from harness.config.schema import RunConfig
from harness.corpus.manifest import AudioItem
from harness.errors import ExitCode, InvalidMeasurementError, RequestError, UsageError
from harness.measure.text import seconds
from harness.measure.wer import count_errors
from harness.run.audio_set import audio_set_of
from harness.target.exchange import Exchange
from harness.target.openai import PATH, Heard
from harness.target.realtime import foreign_plan, foreign_server
from harness.target.service import TargetService, fields_of, server_timing
from harness.workload.streaming import StreamingPlan, stream_load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.target",
        description="Send one recording to a target and say what was understood: before a run is made of it.",
    )
    parser.add_argument(
        "overrides", nargs="+", metavar="key=value", help="target=openai target.url=http://HOST:PORT/v1 …"
    )
    options = parser.parse_args(arguments)
    end_on_signals()
    return guarded(lambda: _try(options.overrides))


def _try(overrides: Sequence[str]) -> int:
    config = compose_run(overrides)
    if not config.target.is_foreign:
        raise UsageError("target=in_house has no address to ask; set target=openai target.url=…")
    check(config)
    item = _recording(config)
    for line in _live(config, item) if config.target.name == "realtime" else _whole(config, item):
        print(line)
    return int(ExitCode.DONE)


def _whole(config: RunConfig, item: AudioItem) -> Iterator[str]:
    """The recording in one request."""
    with closing(TargetService(config.target)) as service:
        yield f"asked    {config.target.url} ({PATH}): {_asked(config)}"
        try:
            exchange, heard = service.ask(item.read())
        except RequestError as error:
            raise InvalidMeasurementError(f"{item.item_id}: {error}") from error
    yield from _understood(item, exchange, heard)


def _live(config: RunConfig, item: AudioItem) -> Iterator[str]:
    """The recording spoken live, once."""
    plan = StreamingPlan(**{**config.workload.options, **foreign_plan()}, connections=1)
    sound = Target(sample_rate=plan.sample_rate, quality=config.frontend["resample_quality"])
    yield f"asked    {config.target.url}: model={config.target.model}, {config.target.codec}"
    result = stream_load(foreign_server(config.target), [decode(item.read(), Limits(), sound).samples], plan)
    if error := result.records.errors[0]:
        raise InvalidMeasurementError(f"{item.item_id}: {error}")
    first_s, final_s = (float(result.by_stream()[name][0]) for name in ("first_text_s", "final_s"))
    first = "with the last" if isnan(first_s) else seconds(first_s)
    yield f"time     first text {first}, final text {seconds(final_s)} after the end of speech"
    yield from _compared(item, result.records.texts[0])


def _recording(config: RunConfig) -> AudioItem:
    """The first of the set that can be read."""
    audio = audio_set_of(config)
    found = next((item for item in audio.items if not item.expect_failure), None)
    if found is None:
        raise UsageError("every recording of the set is expected to fail: there is none to try")
    return found


def _asked(config: RunConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields_of(config.target).items())


def _understood(item: AudioItem, exchange: Exchange, heard: Heard) -> Iterator[str]:
    yield f"answer   HTTP {exchange.status}, {exchange.headers.get('content-type', 'no content type')}"
    yield f"server   {exchange.headers.get('server', 'it does not say')}"
    yield "time     " + ", ".join(f"{span.name} {seconds(span.duration_s)}" for span in exchange.spans)
    if timing := list(server_timing(exchange.headers.get("server-timing", ""))):
        yield "its own  " + ", ".join(f"{name} {seconds(value)}" for name, value in timing)
    if heard.extra:
        yield f"beside   {', '.join(heard.extra)}"
    yield from _compared(item, heard.text)


def _compared(item: AudioItem, text: str) -> Iterator[str]:
    if item.text is None:
        yield f"heard    {text}"
        return
    errors = count_errors(item.text, text)
    yield f"said     {item.text}"
    yield f"heard    {text}   ({errors.total} of {errors.words} words wrong)"


if __name__ == "__main__":
    sys.exit(command(main))
