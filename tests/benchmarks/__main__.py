"""Measure speed and memory, beside plain ways of doing the same.

    python -m tests.benchmarks [NAME …]     all benchmarks, or those named
    python -m tests.benchmarks --list       what there is

Prints one table and writes build/bench.json. The ratio is how many times better ours is than the baseline,
the target the least ratio aimed at; missing it is told, and is no failure. Times are the processor's, of one
thread, so that other programs on the machine show as little as they can; on a GPU they are a clock's.
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
# Importing them registers theirs.
HEADER = ("name", "ours", "baseline", "unit", "ratio", "target", "met")


def main(arguments: Sequence[str] | None = None, out: Path = OUT) -> None:
    parser = argparse.ArgumentParser(
        "tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; default all")
    parser.add_argument("--list", action="store_true", help="name them, and run none")
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
    """Run benchmarks on one thread, telling on stderr which."""
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
    """Align results in columns; what did not run tells why."""
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
    """Write results as JSON, a list with one object for each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def listing() -> str:
    """Every benchmark's name and what it measures."""
    width = max(map(len, BENCHMARKS))
    return "\n".join(f"{name.ljust(width)}  {one.about}" for name, one in BENCHMARKS.items())


if __name__ == "__main__":
    main()
