"""``python -m training data|train|evaluate|frontends|streams|export``: the embedded model, as it is made."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from harness.command import command
from harness.errors import ExitCode, HarnessError

_FOLDER = Path("results/training")
_SHIPPED = Path(__file__).resolve().parent.parent / "variants" / "models" / "embedded"


def _data(arguments: argparse.Namespace) -> ExitCode:
    from training.data import load_corpus, render_corpus

    render_corpus(
        arguments.data, arguments.clips, arguments.seed, arguments.workers, tokenizer=arguments.tokenizer
    )
    corpus = load_corpus(arguments.data)
    print(f"{arguments.data}: {len(corpus.texts)} clips, {corpus.duration_s / 3600:.1f} hours")
    return ExitCode.DONE


def _train(arguments: argparse.Namespace) -> ExitCode:
    from training.data import load_corpus
    from training.train import Recipe, Run

    named = {
        field.name: getattr(arguments, field.name) for field in fields(Recipe) if field.name in arguments
    }
    run = Run(load_corpus(arguments.data), arguments.run, Recipe(**named))
    if arguments.weights:
        run.start_from(arguments.weights)
    if arguments.resume:
        run.resume()
    print(
        f"{arguments.run}: WER {run.train():.2%} on held-out sentences; weights in {arguments.run / 'export'}"
    )
    return ExitCode.DONE


def _evaluate(arguments: argparse.Namespace) -> ExitCode:
    from training.card import write_card
    from training.evaluate import evaluate, load_exported, missed, report, table

    outcomes = evaluate(load_exported(arguments.model), arguments.sentences)
    print(table(outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps(report(outcomes), indent=1) + "\n", encoding="utf-8")
    if arguments.card:
        write_card(arguments.model, outcomes)
    for name in missed(outcomes):
        print(f"above its target: {name}", file=sys.stderr)
    return ExitCode.REGRESSION if missed(outcomes) else ExitCode.DONE


def _frontends(arguments: argparse.Namespace) -> ExitCode:
    from training.evaluate import load_exported
    from training.frontends import apart, compare, report, table

    rows = list(compare(load_exported(arguments.model), arguments.sentences))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(report(rows), indent=1) + "\n", encoding="utf-8")
    for name in apart(rows):
        print(f"more errors than behind the host's front end: {name}", file=sys.stderr)
    return ExitCode.REGRESSION if apart(rows) else ExitCode.DONE


def _streams(arguments: argparse.Namespace) -> ExitCode:
    import torch

    from training.evaluate import load_exported
    from training.streams import streams, table

    torch.set_num_threads(1)
    print(table(list(streams(load_exported(arguments.model), arguments.sentences))))
    return ExitCode.DONE


def _export(arguments: argparse.Namespace) -> ExitCode:
    """Ship a run's export, once it loads."""
    from training.evaluate import load_exported

    source = arguments.run / "export"
    load_exported(source)
    shutil.copytree(source, arguments.to, dirs_exist_ok=True)
    print(f"{source} -> {arguments.to}")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser("python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(
        name: str, action: Callable[[argparse.Namespace], ExitCode], help: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help, formatter_class=show_defaults)
        added.set_defaults(action=action)
        return added

    data = command("data", _data, "render the training speech and train the tokenizer")
    data.add_argument("--data", type=Path, default=_FOLDER / "data", help="folder of the corpus")
    data.add_argument("--clips", type=int, default=36_000, help="sentences to speak")
    data.add_argument("--seed", type=int, default=0, help="the same seed renders the same corpus")
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")

    data.add_argument("--tokenizer", type=Path, help="go on with this one, for train --weights")

    train = command("train", _train, "train on a corpus, on a GPU where there is one")
    train.add_argument("--data", type=Path, default=_FOLDER / "data", help="folder of the corpus")
    train.add_argument(
        "--run", type=Path, default=_FOLDER / "run", help="folder of checkpoint, log and export"
    )
    start = train.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from the checkpoint of --run")
    start.add_argument("--weights", type=Path, help="start from exported weights (.safetensors)")
    _add_recipe(train)

    evaluate = command("evaluate", _evaluate, "word error rate per condition on fixed held-out sentences")
    evaluate.add_argument("--model", type=Path, default=_SHIPPED, help="folder of weights and tokenizer")
    evaluate.add_argument("--sentences", type=int, default=150, help="sentences per condition")
    evaluate.add_argument(
        "--card", action="store_true", help="write the result into the model card of --model"
    )
    evaluate.add_argument("--json", type=Path, help="also write every number and transcript here")

    frontends = command(
        "frontends", _frontends, "word error rates behind the host's front end and the device's"
    )
    frontends.add_argument("--model", type=Path, default=_SHIPPED, help="folder of weights and tokenizer")
    frontends.add_argument("--sentences", type=int, default=60, help="sentences per noise level")
    frontends.add_argument("--json", type=Path, help="also write the rates and differences here")

    live = command("streams", _streams, "word error rates of live streams, windows and cached, by context")
    live.add_argument("--model", type=Path, default=_SHIPPED, help="folder of weights and tokenizer")
    live.add_argument("--sentences", type=int, default=60, help="sentences, three a stream")

    export = command("export", _export, "ship the weights of a run with the package")
    export.add_argument("--run", type=Path, default=_FOLDER / "run", help="folder of the run")
    export.add_argument("--to", type=Path, default=_SHIPPED, help="folder that ships")
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """The numbers of a run that are worth changing; ``training.train.Recipe`` has the rest."""
    parser.add_argument("--minutes", type=float, default=9.0, help="time to train; the schedule ends with it")
    parser.add_argument("--steps", type=int, help="also end, and finish the schedule, after so many steps")
    parser.add_argument("--batch-s", type=float, default=1200.0, help="seconds of speech in a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak of the schedule")
    parser.add_argument("--warm-up-steps", type=int, default=500, help="steps to the peak")
    parser.add_argument("--ctc-weight", type=float, default=0.3, help="share of the auxiliary CTC loss")
    parser.add_argument("--probe-s", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of initialization, batches and noise")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="launch kernels one by one")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to train")


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    parsed = _parser().parse_args(arguments)
    try:
        code: ExitCode = parsed.action(parsed)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(command(main))
