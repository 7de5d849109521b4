"""Decoders against each other in one process, without an encoder.

    python -m benchmarks.decoder --decoders cpu_synced,conditional_graph,megakernel --json times.json

A prediction network and a joint of Parakeet-TDT 0.6B's size decode smooth random encoder states; biases are
fitted until greedy search emits labels at the rate of speech. A time is the wall time of one ``decode`` call,
from encoder states on the device to hypotheses on the host, as the mean over the inputs: utterances differ
in their labels, and so in their times, by a factor of three. Labels are held to ``cpu_synced``'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from benchmarks import core
from benchmarks.ceilings import H100
from benchmarks.labels import compare, merge, require
from benchmarks.models import random_states, speaking_transducer
from harness.arguments import positive_integer, positive_integers, positive_seconds
from harness.command import command
from harness.errors import HarnessError, UnavailableError
from harness.protocols import Decoder, EncoderOutput, Evidence, Hypothesis, ShapePlan
from variants.decoder import conditional_graph, cpu_synced, megakernel, nemo
from variants.decoder.gpu.decoding import GpuDecoder
from variants.decoder.options import ConditionalGraph, CpuSynced, Megakernel, Nemo
from variants.encoder.memory import module_bytes
from variants.models.options import ModelOptions
from variants.models.parakeet import PARAKEET_TDT_0_6B_V3
from variants.models.types import TdtModel

FIRST_UTTERANCE = 1000
"""Seed of the first utterance that is timed, beyond those that the model was fitted to."""
MIN_INPUTS = 4

Build = Callable[[TdtModel, ShapePlan], Decoder]
DECODERS: Mapping[str, Build] = {
    "cpu_synced": lambda model, plan: cpu_synced.build(model, CpuSynced(), plan),
    "conditional_graph": lambda model, plan: conditional_graph.build(model, ConditionalGraph(), plan),
    "megakernel": lambda model, plan: megakernel.build(model, Megakernel(), plan),
    "nemo.no_while_loops": lambda model, plan: nemo.build(model, Nemo("no_while_loops"), plan),
    "nemo.full_graph": lambda model, plan: nemo.build(model, Nemo("full_graph"), plan),
}


@dataclass(frozen=True)
class Decoding:
    """``core.Contender``: one decoder on the inputs of one batch size."""

    name: str
    model: TdtModel
    decoder: Decoder
    inputs: Sequence[EncoderOutput]
    expected: Sequence[Sequence[Hypothesis]]

    def agree(self) -> Mapping[str, Any]:
        parts = [
            compare(self.model, encoded, expected, self.decoder.decode(encoded).hypotheses)
            for encoded, expected in zip(self.inputs, self.expected, strict=True)
        ]
        return asdict(require(merge(parts), self.model.dtype, f"decoder={self.name}"))

    def run(self) -> core.Sample:
        return {"call_s": fmean(self._call_s(encoded) for encoded in self.inputs)}

    def _call_s(self, encoded: EncoderOutput) -> float:
        self.model.synchronize()
        start = time.perf_counter()
        self.decoder.decode(encoded)
        return time.perf_counter() - start

    def evidence(self) -> Evidence:
        return {**self.decoder.evidence(), **_counted(self.decoder, _weight_bytes(self.model))}


def trials(options: argparse.Namespace, results: core.Results) -> Iterator[core.Trial]:
    """Every batch size through every decoder; a small batch's utterances are the first of a large one's."""
    if not torch.cuda.is_available():
        raise UnavailableError("the decoder bench needs an NVIDIA GPU; torch finds none here")
    device = torch.device("cuda", 0)
    chosen = ModelOptions(
        "decoder_bench",
        precision=options.precision,
        seed=options.seed,
        tokens_per_speech_s=options.labels_per_s,
    )
    model = speaking_transducer(chosen, device)
    results.note(
        precision=options.precision,
        seed=options.seed,
        labels_per_s=options.labels_per_s,
        cuda=torch.version.cuda,
    )
    for batch in options.batches:
        yield trial(model, batch, options.seconds, options.clips, options.decoders)


def trial(model: TdtModel, batch: int, seconds: float, clips: int, names: Sequence[str]) -> core.Trial:
    """At least ``MIN_INPUTS`` batches, of ``clips`` utterances in all."""
    inputs = [
        states_for(model, batch, round(seconds / model.frame_s), FIRST_UTTERANCE + index * batch)
        for index in range(max(MIN_INPUTS, clips // batch))
    ]
    reference = cpu_synced.build(model, CpuSynced(), ShapePlan((), batch))
    expected = [reference.decode(encoded).hypotheses for encoded in inputs]
    decoders, missing = make_decoders(model, ShapePlan((seconds,), batch, progress=core.tell), names)
    longest = fmean(max(len(one.tokens) for one in each) for each in expected)
    return core.Trial(
        panel=f"Decoders, utterances of {seconds:g} s",
        size_name="batch",
        size=batch,
        contenders={
            name: Decoding(name, model, decoder, inputs, expected) for name, decoder in decoders.items()
        },
        # Of a decoder that reads every weight from device memory for each label of the longest utterance.
        facts={
            "inputs": len(inputs),
            "labels_per_utterance": fmean(len(one.tokens) for each in expected for one in each),
            "longest_labels": longest,
            "weight_reads_s": longest * _weight_bytes(model) / H100.bytes_per_s,
        },
        missing=missing,
    )


def states_for(model: TdtModel, batch: int, frames: int, seed: int) -> EncoderOutput:
    """``random_states`` as ``model``'s encoder would give them."""
    joint: Any = model.joint
    encoded = random_states(batch, frames, seed, joint.enc.in_features, model.device)
    return EncoderOutput(encoded.values.to(model.dtype), encoded.lengths)


def make_decoders(
    model: TdtModel, plan: ShapePlan, names: Sequence[str]
) -> tuple[dict[str, Decoder], dict[str, HarnessError]]:
    """Decoders by name; of one that cannot be built here, the reason."""
    made: dict[str, Decoder] = {}
    missing: dict[str, HarnessError] = {}
    for name in names:
        try:
            made[name] = DECODERS[name](model, plan)
        except HarnessError as error:
            missing[name] = error
    return made, missing


def _weight_bytes(model: TdtModel) -> int:
    return module_bytes(model.prednet) + module_bytes(model.joint)


def _counted(decoder: Decoder, weight_bytes: int) -> dict[str, Any]:
    """What a decoder of our own did in a call, as the mean over its calls; of the megakernel also its own
    floor: its hops between multiprocessors, and its weights once. A step hands candidates and choices on, a
    label also the hidden state of each layer and the prediction."""
    if not isinstance(decoder, GpuDecoder):
        return {}
    totals = decoder.totals
    done = {
        name: getattr(totals, name) / totals.calls for name in ("steps", "label_steps", "labels", "columns")
    }
    if "hops_per_label" not in decoder.evidence():
        return {"per_call": done}
    hops = 2 * done["steps"] + (PARAKEET_TDT_0_6B_V3.pred_layers + 1) * done["label_steps"]
    return {"per_call": done, "hop_floor_s": hops * H100.hop_s + weight_bytes / H100.bytes_per_s}


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(DECODERS)):
        raise argparse.ArgumentTypeError(f"no decoder {', '.join(unknown)}; there are {', '.join(DECODERS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoder", description="Time decoders.")
    parser.add_argument("--batches", type=positive_integers, default=(1, 8, 32, 128))
    parser.add_argument("--seconds", type=positive_seconds, default=10.0, help="length of each utterance")
    parser.add_argument(
        "--clips",
        type=positive_integer,
        default=32,
        help=f"utterances in all, in at least {MIN_INPUTS} batches",
    )
    parser.add_argument("--labels-per-s", type=float, default=4.0)
    parser.add_argument("--decoders", type=_names, default=tuple(DECODERS), help="names, with commas")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    core.add_options(parser, rounds=20)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.decoder", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
