"""``python -m harness.report RUN…``: the page and the charts of one or several runs; or, of a benchmark of
single parts, its chart."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.command import command, guarded
from harness.errors import ExitCode
from harness.files import explained, write_atomically
from harness.record import StoredRun, read_run
from harness.report import text_summary, write_report
from harness.report.benches import read_bench
from harness.report.charts import bench_chart

_EXAMPLES = """examples:
  python -m harness.report results/20260521-120000-eager-1a2b
  python -m harness.report results/*-eager-* results/*-compiled-* --out reports/compiled
  python -m harness.report encoders.json --out reports     what benchmarks.encoder --json wrote

exit codes: 0 written   2 a folder is no run or cannot be written   3 no space left
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Write one self-contained HTML page and PNG charts about runs. The first run is the "
        "one that the others are compared with. Of a JSON file that a benchmark of single parts wrote, a "
        "chart.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, results/<run_id>, or a JSON file"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the run's own folder; for several, reports/<first run>-and-others; "
        "beside a JSON file)",
    )
    options = parser.parse_args(arguments)
    return guarded(lambda: _report(options.runs, options.out))


def _report(given: Sequence[Path], out: Path | None) -> int:
    files = [path for path in given if path.suffix == ".json"]
    for file in files:
        print(f"chart   {_chart(file, out or file.parent)}")
    folders = [path for path in given if path not in files]
    return _page(folders, out) if folders else int(ExitCode.DONE)


def _chart(file: Path, folder: Path) -> Path:
    chart = folder / f"{file.stem}.png"
    content = bench_chart(read_bench(file))
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(chart, lambda png: png.write(content))
    return chart


def _page(folders: Sequence[Path], out: Path | None) -> int:
    runs = [read_run(folder) for folder in folders]
    for stored in runs:
        print(text_summary(stored), end="\n\n")
    print(f"report  {write_report(runs, out or _default(runs))}")
    return int(ExitCode.DONE)


def _default(runs: Sequence[StoredRun]) -> Path:
    if len(runs) == 1:
        return runs[0].folder / "report"
    return Path("reports") / f"{runs[0].run.run_id}-and-{len(runs) - 1}-more"


if __name__ == "__main__":
    sys.exit(command(main))
