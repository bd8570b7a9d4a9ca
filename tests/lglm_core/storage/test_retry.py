"""When a failed request is sent again, and when it is given up."""

import random
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from lglm_core.storage import retry
from lglm_core.storage.retry import RetryPolicy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still at ``now``."""
    stopped = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: stopped.now))
    return stopped


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every random delay the longest one."""
    monkeypatch.setattr(retry, "random", SimpleNamespace(uniform=lambda low, high: high))


def test_delays_double_up_to_a_limit(clock: SimpleNamespace, longest: None):
    policy = RetryPolicy(answered=True)
    delays = [policy.delay(attempts, clock.now) for attempts in (1, 2, 3, 4, 8, 9, 50, 5000)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 20.0, 20.0, 20.0, 20.0])


def test_a_delay_is_a_random_part_of_the_longest(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "random", random.Random(0))
    delays = [RetryPolicy(answered=True).delay(4, clock.now) for _ in range(500)]
    assert min(delays) >= 0 and max(delays) <= 1.6
    quarters = Counter(int(delay / 0.4) for delay in delays)
    assert all(90 < quarters[quarter] < 160 for quarter in range(4)), quarters


@pytest.mark.parametrize(("answered", "patience_s"), [(False, 10.0), (True, 300.0)])
def test_no_delay_reaches_beyond_the_limit_and_then_there_is_none(
    clock: SimpleNamespace, longest: None, answered: bool, patience_s: float
):
    policy = RetryPolicy(answered=answered)
    since = clock.now
    clock.now = since + patience_s - 0.5
    assert policy.delay(10, since) == pytest.approx(0.5)
    for clock.now in (since + patience_s, since + patience_s + 1):
        assert policy.delay(10, since) is None


def test_no_time_is_granted_beyond_the_limit():
    assert RetryPolicy().delay(1, time.monotonic(), at_least=10**6) == pytest.approx(10, abs=0.1)
