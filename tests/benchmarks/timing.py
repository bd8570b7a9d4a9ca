"""Times to be compared: functions take turns, so that whatever else the machine does falls on all alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def in_turns(
    *functions: Callable[[], Any],
    rounds: int = 5,
    warm_up: bool = True,
    least_s: float = 0.05,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """Return each function's median seconds per call.

    Args:
        rounds: In how many each takes its turn.
        warm_up: Call each before them, uncounted, and find out how quick it is; False for what takes long.
        least_s: A turn takes at least so long: a quick function is called several times in it.
        clock: Default is the processor's time of this process, in which other programs do not show; with
            one thread it is the time that one waits where there are none.
    """
    calls = [_enough_calls(function, least_s, clock) if warm_up else 1 for function in functions]
    turns: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, often, seconds in zip(functions, calls, turns, strict=True):
            seconds.append(_timed(function, often, clock) / often)
    return [median(seconds) for seconds in turns]


def _enough_calls(function: Callable[[], Any], least_s: float, clock: Callable[[], float]) -> int:
    calls = 1
    while _timed(function, calls, clock) < least_s:
        calls *= 2
    return calls


def _timed(function: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(calls):
        function()
    return clock() - started
