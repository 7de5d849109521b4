"""``python -m harness.corpus``: list the audio sets, render one, draw its lengths."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.command import command, guarded
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import MANIFEST_NAME, AudioSet
from harness.corpus.plots import plot_distribution
from harness.corpus.spec import available, load_spec
from harness.errors import ExitCode
from harness.paths import datasets_dir

_DEFAULT_CACHE = Path(".cache") / "audio"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; an error is one line on stderr."""
    options = _parser().parse_args(arguments)

    def run() -> int:
        options.run(options)
        return int(ExitCode.DONE)

    return guarded(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.corpus", description="Audio sets to measure with."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="name the audio sets and say what they are")
    listing.set_defaults(run=_list)
    _add_specs_dir(listing)

    rendering = commands.add_parser("render", help="speak, mix and encode a set into the cache")
    rendering.set_defaults(run=_render)
    _add_selection(rendering)

    plotting = commands.add_parser("plot", help="draw a set's lengths as a PNG, rendering it if need be")
    plotting.set_defaults(run=_plot)
    _add_selection(plotting)
    plotting.add_argument("--output", type=Path, help="the PNG to write (default: reports/dataset-NAME.png)")
    return parser


def _add_specs_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--specs-dir",
        type=Path,
        default=datasets_dir(),
        help="folder of specifications (default: %(default)s)",
    )


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help="an audio set; `list` names them")
    command.add_argument(
        "--manifest", type=Path, help="JSONL manifest of your own recordings, instead of NAME"
    )
    command.add_argument(
        "--items", type=int, help="make this many recordings instead of the specification's number"
    )
    command.add_argument("--seed", type=int, help="another seed: other lengths, sentences, voices and noise")
    command.add_argument(
        "--cache-dir",
        type=Path,
        default=_DEFAULT_CACHE,
        help="where rendered sets are kept (default: %(default)s)",
    )
    _add_specs_dir(command)


def _list(options: argparse.Namespace) -> None:
    for name in available(options.specs_dir):
        spec = load_spec(name, options.specs_dir)
        print(f"{name:<16}{spec.items:>6} recordings  {spec.description}")


def _render(options: argparse.Namespace) -> None:
    audio_set = _load(options)
    print(f"{audio_set.name}: {len(audio_set.items)} recordings, {audio_set.audio_s:.1f} s of audio")
    for bucket, count in sorted(Counter(item.bucket for item in audio_set.items).items()):
        print(f"  {bucket:<16}{count:>6}")
    print(f"content hash  {audio_set.content_hash}")
    print(f"manifest      {options.manifest or audio_set.root / MANIFEST_NAME}")
    for warning in audio_set.warnings:
        print(f"warning: {warning}")


def _plot(options: argparse.Namespace) -> None:
    audio_set = _load(options)
    path = options.output or Path("reports") / f"dataset-{audio_set.name}.png"
    plot_distribution(audio_set, path)
    print(path)


def _load(options: argparse.Namespace) -> AudioSet:
    return load_audio_set(
        options.name,
        options.manifest,
        options.specs_dir,
        options.cache_dir,
        items=options.items,
        seed=options.seed,
        progress=sys.stderr.isatty(),
    )


if __name__ == "__main__":
    sys.exit(command(main))
