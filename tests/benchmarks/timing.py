"""Timing of functions that take turns, so that other load on the machine affects all of them alike."""

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
        functions: The functions to time.
        rounds: Number of rounds, in each of which every function has one turn.
        warm_up: Whether each function is first called without being counted, to find out how fast it is;
            False for slow functions.
        least_s: Least duration of a turn; fast functions are called several times in a turn.
        clock: By default the CPU time of this process, which does not depend on other programs; with one
            thread it equals the wall-clock time of an idle machine.
    """
    calls = [_enough_calls(function, least_s, clock) if warm_up else 1 for function in functions]
    turns: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, repeats, seconds in zip(functions, calls, turns, strict=True):
            seconds.append(_time_calls(function, repeats, clock) / repeats)
    return [median(seconds) for seconds in turns]


def _enough_calls(function: Callable[[], Any], least_s: float, clock: Callable[[], float]) -> int:
    calls = 1
    while _time_calls(function, calls, clock) < least_s:
        calls *= 2
    return calls


def _time_calls(function: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(calls):
        function()
    return clock() - started
