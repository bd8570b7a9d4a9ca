"""The registry of benchmarks: functions that measure a number of ours and one of a baseline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class NotRun(Exception):
    """A benchmark cannot run on this machine; the message says why."""


class Measured(NamedTuple):
    """Our number and the baseline's, in the benchmark's unit, and a note on the conditions."""

    ours: float
    baseline: float
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark; ``target`` is the ratio to reach, None where the ratio is only reported."""

    name: str
    measure: Callable[[], Measured]
    unit: str
    target: float | None
    higher_is_better: bool

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (self.measure.__doc__ or "").strip().partition("\n")[0]

    def result(self) -> "Result":
        """Run the benchmark."""
        facts = (self.unit, self.higher_is_better)
        try:
            ours, baseline, note = self.measure()
        except NotRun as reason:
            return Result(self.name, None, None, *facts, None, self.target, None, str(reason))
        ratio = ours / baseline if self.higher_is_better else baseline / ours
        met = None if self.target is None else ratio >= self.target
        return Result(self.name, ours, baseline, *facts, ratio, self.target, met, note)


@dataclass(frozen=True)
class Result:
    """The result of a benchmark.

    ``ratio`` says how many times better ours is than the baseline; ``target`` is the ratio to reach. ``note``
    holds the conditions, or the reason why the benchmark did not run; then ours, baseline, ratio and met are
    None.
    """

    name: str
    ours: float | None
    baseline: float | None
    unit: str
    higher_is_better: bool
    ratio: float | None
    target: float | None
    met: bool | None
    note: str


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(
    unit: str, *, target: float | None = None, higher_is_better: bool = False
) -> Callable[[Callable[..., Measured]], Callable[..., Measured]]:
    """Register a function as a benchmark under its name with dashes; it is called without arguments."""

    def register(function: Callable[..., Measured]) -> Callable[..., Measured]:
        name = function.__name__.replace("_", "-")
        BENCHMARKS[name] = Benchmark(name, function, unit, target, higher_is_better)
        return function

    return register
