"""The same results in the same order from one process, several, and Ray."""

import math
import os
import time

import pytest

from plimsoll.planning.workers import open_workers
from plimsoll.spec.errors import SpecError


def square_slowly(x: int) -> int:
    time.sleep(0.02 * (5 - x % 5))
    return x * x


def who(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_order_is_that_of_the_items(jobs):
    with open_workers(jobs) as workers:
        assert list(workers.map(square_slowly, range(12))) == [x * x for x in range(12)]
        assert list(workers.map(square_slowly, [])) == []


def test_two_jobs_are_two_processes():
    with open_workers(2) as workers:
        pids = set(workers.map(who, [0, 1]))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_an_error_reaches_the_caller_and_ends_the_pool_at_once():
    start = time.monotonic()
    with pytest.raises(ValueError, match="three"), open_workers(2) as workers:
        list(workers.map(fail_at_three, range(8)))
    assert time.monotonic() - start < 10


def test_an_interrupt_does_not_wait_for_running_work():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_workers(2) as workers:
        results = workers.map(time.sleep, [0.01, 30, 30, 30])
        next(results)
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10


def test_no_job_is_refused():
    with pytest.raises(SpecError, match="jobs = 0"):
        open_workers(0)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ray_gives_the_same_answers():
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    with open_workers(2, backend="ray") as workers:
        assert list(workers.map(math.isqrt, list(range(40)))) == [math.isqrt(x) for x in range(40)]
