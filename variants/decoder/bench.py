"""Decoders against each other in one process, without an encoder: ``python -m variants.decoder.bench``.

A prediction network and a joint of Parakeet-TDT 0.6B's size with seeded weights decode smooth random
encoder states; biases are fitted until greedy search emits labels at the rate of speech. Decoders take
turns on the same inputs, so that a drift of the clock reaches all of them. A time is the wall time of one
``decode`` call, from encoder states on the device to hypotheses on the host, as the mean over the inputs:
utterances differ in their labels, and so in their times, by a factor of three.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.arguments import positive_integer, positive_integers, positive_seconds, result_file
from harness.bench_provenance import bench_provenance
from harness.command import command
from harness.errors import HarnessError, UnavailableError
from harness.files import write_text
from harness.protocols import Decoder, EncoderOutput, Hypothesis, ShapePlan
from harness.protocols.options import NoOptions
from variants.decoder import conditional_graph, cpu_synced, megakernel, nemo
from variants.decoder.gpu.decoding import GpuDecoder
from variants.decoder.options import ConditionalGraph, Megakernel, Nemo
from variants.models.types import TdtModel

FRAME_S = 0.08
ENCODER_WIDTH, HIDDEN, LAYERS, TOKENS = 1024, 640, 2, 8192
DURATIONS = (0, 1, 2, 3, 4)
DURATION_SHARES = (0.08, 0.22, 0.32, 0.25, 0.13)
CONTEXT_DEVIATION = 0.25
MEMORY_BYTES_PER_S = 3.0e12
"""Device memory of an H100, measured as a large copy: the floor of a decoder that re-reads its weights."""
HOP_S = 0.30e-6
"""One word from one multiprocessor to another through L2 on an H100, measured as half a round trip."""
NAMES = ("cpu_synced", "conditional_graph", "megakernel", "nemo.no_while_loops", "nemo.full_graph")
CALIBRATION_UTTERANCES = 64
"""Utterances of ten seconds: the labels of one deviate by half, so the fitted rate is good to 6 %."""
FIRST_UTTERANCE = 1000
"""Seed of the first utterance that is timed, beyond those that the model was fitted to."""
MIN_INPUTS = 4
NEAR_TIE = {"float16": 0.02, "bfloat16": 0.16}
"""Greatest margin of a first difference that the rounding of that number type explains."""


# ---------------------------------------------------------------- a model without an encoder


class NoTokenizer:
    """Token ids are compared as they are."""

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def build_model(seed: int, labels_per_s: float, dtype: torch.dtype, device: torch.device) -> TdtModel:
    """Prediction network and joint of full size, emitting ``labels_per_s`` on ``random_states``."""
    from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint

    torch.manual_seed(seed)
    prednet = RNNTDecoder(prednet={"pred_hidden": HIDDEN, "pred_rnn_layers": LAYERS}, vocab_size=TOKENS)
    joint = RNNTJoint(
        jointnet={
            "encoder_hidden": ENCODER_WIDTH,
            "pred_hidden": HIDDEN,
            "joint_hidden": HIDDEN,
            "activation": "relu",
        },
        num_classes=TOKENS,
        num_extra_outputs=len(DURATIONS),
        log_softmax=False,
    )
    model = TdtModel(
        name="decoder_bench",
        encoder=torch.nn.Identity(),
        prednet=prednet.eval().to(device, dtype),
        joint=joint.eval().to(device, dtype),
        tokenizer=NoTokenizer(),
        device=device,
        dtype=dtype,
        durations=DURATIONS,
        blank_id=TOKENS,
        max_symbols=10,
        frame_s=FRAME_S,
        feature_bins=128,
    )
    _calibrate(model, labels_per_s, seed)
    return model


def random_states(batch: int, frames: int, seed: int, model: TdtModel) -> EncoderOutput:
    """Noise that moves over a few frames, as an encoder's states do: ``[batch, frames, 1024]``.

    An utterance is that of its seed, ``seed`` and on, in whatever batch.
    """
    rows = []
    for each in range(seed, seed + batch):
        generator = torch.Generator(device=model.device).manual_seed(each)
        rows.append(torch.randn(frames + 4, ENCODER_WIDTH, generator=generator, device=model.device))
    noise = torch.stack(rows)
    smooth = sum(weight * noise[:, i : i + frames] for i, weight in enumerate((0.2, 0.5, 0.66, 0.5, 0.2)))
    lengths = torch.full((batch,), frames, dtype=torch.int64, device=model.device)
    return EncoderOutput(torch.as_tensor(smooth).to(model.dtype), lengths)


@torch.inference_mode()
def _calibrate(model: TdtModel, labels_per_s: float, seed: int) -> None:
    """Standardize the joint's inputs and outputs, fit the durations' shares, bisect the blank bias."""
    joint: Any = model.joint
    prednet: Any = model.prednet
    encoded = random_states(CALIBRATION_UTTERANCES, 125, seed + 1, model)
    labels = torch.randint(TOKENS, (256, 4), device=model.device)
    contexts = prednet.predict(labels, None, add_sos=False, batch_size=256)[0][:, -1]  # [256, H]
    _standardize(joint.enc, encoded.values.flatten(0, 1), 1.0)
    _standardize(joint.pred, contexts, CONTEXT_DEVIATION)
    frames = joint.project_encoder(encoded.values).flatten(0, 1)  # [8000, J]
    predictions = joint.project_prednet(contexts).repeat(-(-len(frames) // len(contexts)), 1)
    hidden = torch.relu(frames + predictions[: len(frames)])
    output = joint.joint_net[-1]
    _standardize(output, hidden, 1.5)
    _fit_durations(output, hidden)
    _fit_blank(model, encoded, labels_per_s)


def _standardize(layer: torch.nn.Linear, inputs: torch.Tensor, deviation: float) -> None:
    outputs = layer(inputs).float()
    scale = deviation / (outputs.std(dim=0) + 1e-6)
    layer.weight.mul_(scale[:, None])
    layer.bias.copy_((layer.bias.float() - outputs.mean(dim=0)) * scale)


def _fit_durations(output: torch.nn.Linear, hidden: torch.Tensor) -> None:
    logits = output(hidden)[:, -len(DURATIONS) :].float()
    wanted = torch.tensor(DURATION_SHARES, device=logits.device)
    bias = torch.zeros_like(wanted)
    for _ in range(60):
        found = torch.bincount((logits + bias).argmax(dim=-1), minlength=len(DURATIONS)) / len(logits)
        bias += 0.4 * torch.log((wanted + 0.01) / (found + 0.01))
    output.bias[-len(DURATIONS) :] += bias.to(output.bias.dtype)


def _fit_blank(model: TdtModel, encoded: EncoderOutput, labels_per_s: float) -> None:
    joint: Any = model.joint
    bias = joint.joint_net[-1].bias
    start = float(bias[model.blank_id])
    seconds = float(encoded.lengths.sum()) * FRAME_S
    low, high = 0.0, 12.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        bias[model.blank_id] = start + middle
        found = cpu_synced.CpuSyncedDecoder(model).decode(encoded).hypotheses
        rate = sum(len(hypothesis.tokens) for hypothesis in found) / seconds
        low, high = (middle, high) if rate > labels_per_s else (low, middle)


# ---------------------------------------------------------------- the same answer


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a decoder's labels are those of the reference.

    A comparison of two utterances ends at their first difference: what follows has another history.
    ``largest_margin`` is the greatest gap, among all first differences, between the two best choices that
    exact arithmetic sees on the frames in question: a difference is a tie that rounding decided.
    """

    utterances: int
    identical: int
    labels_compared: int
    differences: int
    largest_margin: float
    typical_margin: float


def compare(
    model: TdtModel, encoded: EncoderOutput, reference: Sequence[Hypothesis], found: Sequence[Hypothesis]
) -> Agreement:
    """``found`` against ``reference``, label by label with frame and duration."""
    labels = identical = 0
    margins: list[float] = []
    for row, (a, b) in enumerate(zip(reference, found, strict=True)):
        common = _common(a, b)
        labels += common
        if a == b:
            identical += 1
            continue
        margins.append(margin_after(model, encoded, row, a, common))
    typical = [
        margin_after(model, encoded, row, hypothesis, len(hypothesis.tokens) // 2)
        for row, hypothesis in list(enumerate(reference))[:8]
        if hypothesis.tokens
    ]
    return Agreement(
        utterances=len(reference),
        identical=identical,
        labels_compared=labels,
        differences=len(margins),
        largest_margin=max(margins, default=0.0),
        typical_margin=statistics.median_low(typical) if typical else math.nan,
    )


def _common(a: Hypothesis, b: Hypothesis) -> int:
    count = 0
    for x, y in zip(
        zip(a.tokens, a.frames, a.durations, strict=True),
        zip(b.tokens, b.frames, b.durations, strict=True),
        strict=False,
    ):
        if x != y:
            break
        count += 1
    return count


@torch.inference_mode()
def margin_after(
    model: TdtModel, encoded: EncoderOutput, row: int, hypothesis: Hypothesis, count: int
) -> float:
    """The smallest gap between best and second best (token or duration) on the way to the next label.

    The first ``count`` labels are given; the prediction network and the joint are computed in float64 from
    the same 16-bit weights; states stay unrounded.
    """
    import copy

    prednet: Any = copy.deepcopy(model.prednet).double()
    joint: Any = copy.deepcopy(model.joint).double()
    labels = torch.tensor([[model.blank_id, *hypothesis.tokens[:count]]], device=model.device)
    output, _ = prednet.predict(labels, None, add_sos=False, batch_size=1)
    prediction = joint.project_prednet(output[:, -1:])  # [1, 1, J]
    states = joint.project_encoder(encoded.values[row : row + 1].double())
    frame = _next_frame(model, hypothesis, count)
    smallest = math.inf
    while frame < int(encoded.lengths[row]):
        logits = joint.joint_after_projection(states[:, frame : frame + 1], prediction)[0, 0, 0]
        tokens, durations = logits[: model.blank_id + 1], logits[model.blank_id + 1 :]
        for part in (tokens, durations):
            best = part.topk(2).values
            smallest = min(smallest, float(best[0] - best[1]))
        if int(tokens.argmax()) != model.blank_id:
            break
        frame += max(model.durations[int(durations.argmax())], 1)
    return smallest


def _next_frame(model: TdtModel, hypothesis: Hypothesis, count: int) -> int:
    """The frame at which the search stands after ``count`` labels."""
    if not count:
        return 0
    last, skip = hypothesis.frames[count - 1], hypothesis.durations[count - 1]
    exhausted = hypothesis.frames[:count].count(last) >= model.max_symbols
    return last + (1 if skip == 0 and exhausted else skip)


# ---------------------------------------------------------------- timing


def make_decoders(model: TdtModel, plan: ShapePlan, names: Sequence[str]) -> dict[str, Decoder | str]:
    """Decoders by name; in place of one that cannot be built here, the reason."""
    builders: dict[str, Callable[[], Decoder]] = {
        "cpu_synced": lambda: cpu_synced.build(model, NoOptions(), plan),
        "conditional_graph": lambda: conditional_graph.build(model, ConditionalGraph(), plan),
        "megakernel": lambda: megakernel.build(model, Megakernel(), plan),
    }
    for mode in ("full_graph", "no_while_loops"):
        builders[f"nemo.{mode}"] = lambda mode=mode: nemo.build(model, Nemo(mode), plan)  # type: ignore[misc]
    made: dict[str, Decoder | str] = {}
    for name in names:
        try:
            made[name] = builders[name]()
        except UnavailableError as error:
            made[name] = str(error)
    return made


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds of ``decode``, each sample the mean over one pass through the inputs.

    ``low`` and ``high`` bound the median of the passes at 95 % (order statistics).
    """

    median_s: float
    low_s: float
    high_s: float
    samples_s: tuple[float, ...]


def summarize(samples: Sequence[float]) -> Timing:
    """Median and its distribution-free interval: ranks of the binomial (Conover, section 3.2)."""
    ordered = sorted(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half) - 1)
    return Timing(statistics.median_low(ordered), ordered[low], ordered[max(high, low)], tuple(samples))


def time_decoders(
    decoders: Mapping[str, Decoder], inputs: Sequence[EncoderOutput], rounds: int
) -> dict[str, Timing]:
    """Each decoder once per round through all inputs, in an order that rotates and turns around."""
    names = list(decoders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        shift = index % len(names)
        order = names[shift:] + names[:shift]
        for name in order if index % 2 else reversed(order):
            samples[name].append(statistics.mean(_wall_s(decoders[name], encoded) for encoded in inputs))
    return {name: summarize(values) for name, values in samples.items()}


def _wall_s(decoder: Decoder, encoded: EncoderOutput) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    decoder.decode(encoded)
    return time.perf_counter() - start


def weight_floor_s(labels: float, weight_bytes: int) -> float:
    """Seconds to read every weight from device memory once per label of the longest utterance."""
    return labels * weight_bytes / MEMORY_BYTES_PER_S


@dataclass(frozen=True, slots=True)
class PerCall:
    """What a decoder of our own did in a call, as the mean over its calls."""

    joint_steps: float
    label_steps: float
    labels: float


def per_call(decoder: Decoder) -> PerCall | None:
    """Counts by the decoder itself; None for one that does not count its steps on the device."""
    if not isinstance(decoder, GpuDecoder):
        return None
    totals = decoder.totals
    return PerCall(*(count / totals.calls for count in (totals.steps, totals.label_steps, totals.labels)))


def hop_floor_s(done: PerCall, weight_bytes: int) -> float:
    """The megakernel's own floor of a call: its hops between multiprocessors, and its weights once.

    A step hands candidates and choices on; a label also the hidden state of each layer and the prediction.
    """
    hops = 2 * done.joint_steps + (LAYERS + 1) * done.label_steps
    return hops * HOP_S + weight_bytes / MEMORY_BYTES_PER_S


def bench_batch(model: TdtModel, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """All decoders on one batch size; a small batch's utterances are the first of a large one's."""
    frames = round(options.seconds / FRAME_S)
    count = max(MIN_INPUTS, options.clips // batch)
    inputs = [random_states(batch, frames, FIRST_UTTERANCE + i * batch, model) for i in range(count)]
    made = make_decoders(model, ShapePlan((options.seconds,), batch), options.decoders)
    decoders = {name: decoder for name, decoder in made.items() if not isinstance(decoder, str)}
    references = [
        cpu_synced.build(model, NoOptions(), ShapePlan((), batch)).decode(x).hypotheses for x in inputs
    ]
    agreements = {}
    for name, decoder in decoders.items():
        found = [decoder.decode(x).hypotheses for x in inputs]
        parts = [compare(model, x, a, b) for x, a, b in zip(inputs, references, found, strict=True)]
        agreements[name] = _merge(parts)
    timings = time_decoders(decoders, inputs, options.rounds)
    longest = statistics.mean(max(len(h.tokens) for h in reference) for reference in references)
    weights = sum(p.numel() * p.element_size() for m in (model.prednet, model.joint) for p in m.parameters())
    wrong = {
        name: f"withheld: differs from cpu_synced by a margin of {agreement.largest_margin:.3f}"
        for name, agreement in agreements.items()
        if agreement.largest_margin > NEAR_TIE[options.dtype]
    }
    rows = {
        name: {
            **asdict(timings[name]),
            "agreement": asdict(agreements[name]),
            "weight_reads_floor_share": weight_floor_s(longest, weights) / timings[name].median_s,
            **_counted(decoders[name], weights),
            "evidence": dict(decoders[name].evidence()),
        }
        for name in decoders
        if name not in wrong
    }
    labels = statistics.mean(len(h.tokens) for reference in references for h in reference)
    return {
        "batch": batch,
        "seconds": options.seconds,
        "inputs": count,
        "labels_per_utterance": labels,
        "longest_labels": longest,
        "decoders": rows,
        "unavailable": {name: reason for name, reason in made.items() if isinstance(reason, str)} | wrong,
    }


def _counted(decoder: Decoder, weight_bytes: int) -> dict[str, Any]:
    """Steps of a call where the decoder counts them, and the floor that follows for the megakernel."""
    done = per_call(decoder)
    if done is None:
        return {}
    floor = {"hop_floor_s": hop_floor_s(done, weight_bytes)} if _has_hops(decoder) else {}
    return {"per_call": asdict(done), **floor}


def _has_hops(decoder: Decoder) -> bool:
    return "hops_per_label" in decoder.evidence()


def _merge(parts: Sequence[Agreement]) -> Agreement:
    return Agreement(
        utterances=sum(p.utterances for p in parts),
        identical=sum(p.identical for p in parts),
        labels_compared=sum(p.labels_compared for p in parts),
        differences=sum(p.differences for p in parts),
        largest_margin=max(p.largest_margin for p in parts),
        typical_margin=statistics.median_low(p.typical_margin for p in parts),
    )


# ---------------------------------------------------------------- command


def provenance(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """What the numbers belong to."""
    return {
        **bench_provenance("variants.decoder.bench", arguments, options.commit),
        "cuda": torch.version.cuda,
        "dtype": options.dtype,
        "seed": options.seed,
        "labels_per_s": options.labels_per_s,
        "rounds": options.rounds,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m variants.decoder.bench", description=__doc__)
    parser.add_argument("--batches", type=positive_integers, default=(1, 8, 32, 128))
    parser.add_argument("--seconds", type=positive_seconds, default=10.0, help="length of each utterance")
    parser.add_argument("--rounds", type=positive_integer, default=20)
    parser.add_argument(
        "--clips",
        type=positive_integer,
        default=32,
        help=f"utterances in all, in at least {MIN_INPUTS} batches",
    )
    parser.add_argument("--labels-per-s", type=float, default=4.0)
    parser.add_argument("--decoders", type=lambda text: tuple(text.split(",")), default=NAMES)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default=None, help="git commit of the code, where there is no repository")
    parser.add_argument("--json", type=result_file, help="write every sample here, after each batch size")
    return parser.parse_args(arguments)


def print_batch(result: Mapping[str, Any]) -> None:
    print(
        f"\nbatch {result['batch']} of {result['seconds']:g} s, {result['labels_per_utterance']:.1f} labels"
        f", longest {result['longest_labels']:.0f}"
    )
    for name, row in result["decoders"].items():
        agreement = row["agreement"]
        low_ms, median_ms, high_ms = (1e3 * row[key] for key in ("low_s", "median_s", "high_s"))
        print(
            f"  {name:20s} {median_ms:8.3f} ms [{low_ms:.3f}, {high_ms:.3f}]"
            f"  weight-read floor {row['weight_reads_floor_share']:.0%}"
            f"  identical {agreement['identical']}/{agreement['utterances']}"
            f"  differences {agreement['differences']} in {agreement['labels_compared']}"
            f" (margin <= {agreement['largest_margin']:.4f}, typical {agreement['typical_margin']:.3f})"
        )
    for name, reason in result["unavailable"].items():
        print(f"  {name:20s} unavailable: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if not torch.cuda.is_available():
        error = UnavailableError("the decoder bench needs an NVIDIA GPU; torch finds none here")
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    try:
        model = build_model(
            options.seed, options.labels_per_s, getattr(torch, options.dtype), torch.device("cuda", 0)
        )
        origin = provenance(options, arguments)
        results = []
        for batch in options.batches:
            results.append(bench_batch(model, batch, options))
            print_batch(results[-1])
            if options.json:
                document = {"provenance": origin, "batches": results}
                write_text(options.json, json.dumps(document, indent=1) + "\n")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
