"""Word error rates of the trained model behind each front end, on the host and on the device, in noise.

Held-out sentences as in ``training.evaluate``, between pauses, as 16-bit WAV at the voice's own rate: every
stage has something to do. A front end on the device is held to the host's with the same filter
(``variants.frontend.device.reference``), by the difference of their rates and its 95 % interval, paired by
utterance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from harness.corpus.encode import encode
from harness.corpus.grammar import Grammar
from harness.corpus.noise import mix
from harness.corpus.speech import VOICES, speak
from harness.measure.stats import Estimate, Measured
from harness.measure.wer import NO_ERRORS, WordErrors, count_errors, wer_difference
from harness.protocols import Audio, Segment, ShapePlan
from harness.protocols.options import NoOptions, convert, plain
from harness.spans import SpanRecorder
from training.evaluate import SEED
from training.text import held_out_sentences
from training.voices import HELD_OUT
from variants.decoder import cpu_synced
from variants.encoder import eager
from variants.frontend import device, host
from variants.frontend.config import FrontendConfig
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder

NOISES_DB = (None, 20.0, 15.0, 10.0, 5.0)
"""Signal-to-noise ratios; None is clean speech."""

FILTERS = ("none", "webrtc", "spectral_gate")
_PAUSE_S = 0.75
_BATCH = 16

Errors = Mapping[str, WordErrors]
"""By utterance."""


@dataclass(frozen=True, slots=True)
class Row:
    """One filter at one noise level: the device's errors, its host's, and the difference of their rates."""

    snr_db: float | None
    denoise: str
    host: Errors
    device: Errors

    @property
    def difference(self) -> Measured:
        return wer_difference(self.host, self.device)


def compare(
    model: TdtModel,
    sentences: int,
    noises_db: Sequence[float | None] = NOISES_DB,
    filters: Sequence[str] = FILTERS,
    progress: bool = True,
) -> Iterator[Row]:
    """Every filter at every noise level."""
    texts = held_out_sentences(Grammar.load(), np.random.default_rng(SEED), sentences)
    rounds = tqdm(noises_db, unit="level", desc="front ends", disable=not progress)
    for snr_db in rounds:
        recordings = [_recording(text, number, snr_db) for number, text in enumerate(texts)]
        on_host: dict[str, Errors] = {}
        for denoise in filters:
            options = device.Options(denoise=denoise, isolate_decoder=False)
            held_to = {key: value for key, value in device.reference(options).items() if key != "name"}
            if held_to["denoise"] not in on_host:
                on_host[held_to["denoise"]] = _errors(texts, recordings, *_on_host(model, held_to))
            found = _errors(texts, recordings, *_on_device(model, options))
            yield Row(snr_db, denoise, on_host[held_to["denoise"]], found)


def _recording(text: str, number: int, snr_db: float | None) -> bytes:
    voices = [voice for name, voice in VOICES.items() if name not in HELD_OUT]
    spoken = speak(text, voices[number % len(voices)])
    pause = round(_PAUSE_S * spoken.sample_rate)
    audio = Audio(np.pad(spoken.samples, pause), spoken.sample_rate)
    if snr_db is not None:
        audio = mix(audio, snr_db, np.random.default_rng((SEED, number)))
    return encode(audio, "wav", audio.sample_rate, 1, None)


Decode = Callable[[bytes, SpanRecorder], list[Segment]]


def _on_host(model: TdtModel, options: Mapping[str, Any]) -> tuple[Decode, EncoderDecoder]:
    config = convert(FrontendConfig, options, "frontend")
    return host.build(config), _parts(replace(model, features_on="host"))


def _on_device(model: TdtModel, options: device.Options) -> tuple[Decode, EncoderDecoder]:
    heard = replace(model, features_on="device")
    return device.build(options), replace(_parts(heard), frontend=device.on_device(options, heard))


def _parts(model: TdtModel) -> EncoderDecoder:
    none, plan = NoOptions(), ShapePlan((40.0,), _BATCH)
    return EncoderDecoder(model, eager.build(model, none, plan), cpu_synced.build(model, none, plan), plan)


def _errors(
    texts: Sequence[str], recordings: Sequence[bytes], decode: Decode, inference: EncoderDecoder
) -> Errors:
    heard: list[str] = []
    for start in range(0, len(recordings), _BATCH):
        batch = [decode(each, SpanRecorder()) for each in recordings[start : start + _BATCH]]
        heard += [each.text for each in inference.transcribe(batch, SpanRecorder())]
    return {str(n): count_errors(*pair) for n, pair in enumerate(zip(texts, heard, strict=True))}


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = ["| noise | filter | host | device | difference, 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        noise = "clean" if row.snr_db is None else f"{row.snr_db:g} dB"
        rates = f"{_rate(row.host):.2%} | {_rate(row.device):.2%}"
        lines.append(f"| {noise} | `{row.denoise}` | {rates} | {_shown(row.difference)} |")
    return "\n".join(lines)


def report(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """In JSON types."""
    return [
        {
            "snr_db": row.snr_db,
            "denoise": row.denoise,
            "host_wer": _rate(row.host),
            "device_wer": _rate(row.device),
            "words": _total(row.host).words,
            "difference": plain(row.difference),
        }
        for row in rows
    ]


def apart(rows: Sequence[Row]) -> list[str]:
    """Where the device's rate is higher than the host's beyond the interval of their difference."""
    return [
        f"{row.denoise}, {'clean' if row.snr_db is None else f'{row.snr_db:g} dB'}"
        for row in rows
        if isinstance(row.difference, Estimate) and row.difference.low > 0.0
    ]


def _total(errors: Errors) -> WordErrors:
    return sum(errors.values(), NO_ERRORS)


def _rate(errors: Errors) -> float:
    return _total(errors).total / _total(errors).words


def _shown(difference: Measured) -> str:
    if not isinstance(difference, Estimate):
        return f"{difference.n} utterances are too few, use {difference.needed}"
    return f"{difference.value:+.2%} [{difference.low:+.2%}, {difference.high:+.2%}]"
