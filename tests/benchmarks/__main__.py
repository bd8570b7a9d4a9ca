"""Measure speed and memory, compared with plain ways of doing the same.

    python -m tests.benchmarks [NAME …]     run all benchmarks, or the named ones
    python -m tests.benchmarks --list       list the benchmarks

This prints a table and writes build/bench.json. The ratio says how many times better ours is than the
baseline; the target is the ratio to reach. A missed target is reported, and is no failure. Times are CPU
times of one thread, which other programs on the machine affect least; on a GPU they are wall-clock times.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from tests.benchmarks import (
    attribution,
    fusion,
    head,
    label_side,
    metrics,
    planning,
    reading,
    sharding,
    training_step,
)
from tests.benchmarks.registry import BENCHMARKS, Result

OUT = Path("build/bench.json")
TOPICS = (head, fusion, label_side, training_step, metrics, attribution, planning, sharding, reading)
# Importing a module registers its benchmarks.
HEADER = ("name", "ours", "baseline", "unit", "ratio", "target", "met")


def main(arguments: Sequence[str] | None = None, out: Path = OUT) -> None:
    parser = argparse.ArgumentParser(
        "tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default all")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and run none")
    options = parser.parse_args(arguments)
    if options.list:
        print(listing())
        return
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    results = run(options.names or list(BENCHMARKS))
    print(table(results))
    write(results, out)


def run(names: Sequence[str]) -> list[Result]:
    """Run benchmarks on one thread, and report progress on stderr."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    for number, name in enumerate(names, start=1):
        started = time.perf_counter()
        print(f"{number}/{len(names)} {name}: {BENCHMARKS[name].about}", file=sys.stderr, flush=True)
        results.append(BENCHMARKS[name].result())
        note = results[-1].note
        print(f"    {time.perf_counter() - started:.0f} s; {note}", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    return results


def table(results: Sequence[Result]) -> str:
    """Return the results as a table with aligned columns."""
    rows = [HEADER, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        name, *rest = (
            cell.ljust(width) if column in (0, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([name, *rest]).rstrip())
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    met = {True: "yes", False: "no", None: "-" if result.ours is not None else "not run"}[result.met]
    numbers = (result.ours, result.baseline, result.ratio, result.target)
    ours, baseline, ratio, target = ("-" if number is None else f"{number:.3g}" for number in numbers)
    return result.name, ours, baseline, result.unit, ratio, target, met


def write(results: Sequence[Result], out: Path) -> None:
    """Write the results as a JSON list with one object per benchmark."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def listing() -> str:
    """Return a line for every benchmark with its name and what it measures."""
    width = max(map(len, BENCHMARKS))
    return "\n".join(f"{name.ljust(width)}  {one.about}" for name, one in BENCHMARKS.items())


if __name__ == "__main__":
    main()
