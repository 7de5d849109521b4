"""``python -m harness.claims``: test the published claims on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.arguments import positive_integer, positive_seconds
from harness.claims import accelerated, collector, connections, copies, hops, report
from harness.claims.model import Bench, Claim, Finding, Test
from harness.command import end_on_signals
from harness.errors import ExitCode, HarnessError, UsageError


def all_tests() -> Mapping[int, tuple[Claim, Test]]:
    """Every claim of the table, by number."""
    here = {
        module.CLAIM.number: (module.CLAIM, module.test) for module in (copies, connections, collector, hops)
    }
    return dict(sorted({**here, **accelerated.tests()}.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    end_on_signals()
    try:
        return _run(options)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: the claims finished so far are in the report", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    tests = all_tests()
    chosen = _numbers(options.claims, tests)
    bench = _bench(options)
    findings: list[Finding] = []
    page = bench.folder
    for number in chosen:
        claim, test = tests[number]
        print(f"claim {number}: {claim.baseline} -> {claim.variant}", file=sys.stderr)
        finding = test(bench)
        findings.append(finding)
        print(report.terminal(finding))
        # After each: an interrupted run leaves what it has measured.
        page = report.write(findings, bench.folder, _conditions(bench))
    print(f"\nreport   {page}")
    return int(ExitCode.DONE)


def _numbers(text: str, tests: Mapping[int, object]) -> list[int]:
    if text == "all":
        return list(tests)
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--claims {text}: give numbers such as 5,6,7,8, or all") from None
    if unknown := [number for number in numbers if number not in tests]:
        raise UsageError(f"--claims: there is no claim {unknown[0]}; there are {', '.join(map(str, tests))}")
    return numbers


def _bench(options: argparse.Namespace) -> Bench:
    folder = Path(options.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot make the folder ({error.strerror})") from error
    bench = Bench(
        folder=folder,
        cache_dir=Path(options.cache_dir),
        repeats=options.repeats,
        connections=options.connections,
        duration_s=options.duration,
        objects=options.objects,
        longest_s=options.longest,
        requests=options.requests,
        seed=options.seed,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    return _quick(bench) if options.quick else bench


def _quick(bench: Bench) -> Bench:
    """Everything once and small: whether it works, not what it is worth."""
    return replace(
        bench, repeats=1, connections=80, duration_s=3.0, objects=200_000, longest_s=30.0, requests=60
    )


def _conditions(bench: Bench) -> dict[str, object]:
    return {
        "repeats": bench.repeats,
        "connections": bench.connections,
        "seconds": bench.duration_s,
        "objects": bench.objects,
        "longest recording": f"{bench.longest_s:g} s",
        "seed": bench.seed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.claims", description=__doc__)
    add = parser.add_argument
    add("--claims", default="all", help="numbers, such as 5,6,7,8 (default: all)")
    add("--out", default="reports/claims", help="folder of the report (default: %(default)s)")
    add("--cache-dir", default=".cache", help="where rendered audio is kept (default: %(default)s)")
    add(
        "--repeats", type=positive_integer, default=2, help="processes of each variant (default: %(default)s)"
    )
    add(
        "--connections",
        type=positive_integer,
        default=2000,
        help="live streams of claim 6 (default: %(default)s)",
    )
    add(
        "--duration",
        type=positive_seconds,
        default=60.0,
        help="seconds of each stream (default: %(default)s)",
    )
    add(
        "--objects",
        type=positive_integer,
        default=1_000_000,
        help="start-up heap of claim 7 (default: %(default)s)",
    )
    add(
        "--longest",
        type=positive_seconds,
        default=3600.0,
        help="longest recording of claim 5 (default: %(default)s)",
    )
    add(
        "--requests",
        type=positive_integer,
        default=100,
        help="requests a process in claim 8 (default: %(default)s)",
    )
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="everything once and small: does it work, not what is it worth")
    return parser


if __name__ == "__main__":
    sys.exit(main())
