"""How busy prefill may be, and how long a prompt waits for it."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.disaggregated.queue import Queue, needed_load, served, ttft, wait
from autopar.disaggregated.values import Values

SIZES = st.integers(1, 10**9)


def role(rate: int, time: int = 0, handover: int = 0, service: int = 0) -> Values:
    numbers = (rate, time, handover, 0, 0, 0, 1, service)
    return Values(*(np.array([n], dtype=np.int64) for n in numbers))


@pytest.mark.parametrize(
    ("load", "service", "waits"), [(50, 1000, 500), (90, 1000, 4500), (95, 20, 190), (1, 1, 1)]
)
def test_wait_of_a_server_with_equal_service_times(load: int, service: int, waits: int) -> None:
    """M/D/1: load / (2 (1 - load)) times of service, rounded up."""
    assert wait(np.array(load), np.array(service)) == waits


@pytest.mark.parametrize(("at_once", "load"), [(1, 0.5), (1, 0.9), (4, 0.5), (4, 0.9)])
def test_prompts_that_are_taken_together_wait_no_longer(at_once: int, load: float) -> None:
    """A group takes up to so many that are there, in the time that they would take one by one.

    Alone they wait as M/D/1 says, to 5 % in 200,000 of them; together less until they start.
    """
    rng = random.Random(7)
    now = free = waited = 0.0
    arrivals = []
    for _ in range(200_000):
        now += rng.expovariate(load)
        arrivals.append(now)
    index = 0
    while index < len(arrivals):
        start = max(free, arrivals[index])
        stop = index
        while stop < len(arrivals) and stop - index < at_once and arrivals[stop] <= start:
            waited += start - arrivals[stop]
            stop += 1
        free = start + (stop - index)
        index = stop
    stated = load / (2 * (1 - load))
    mean = waited / len(arrivals)
    assert mean <= stated * 1.05
    if at_once == 1:
        assert mean == pytest.approx(stated, rel=0.05)


@given(st.integers(1, 99), SIZES, SIZES, SIZES, SIZES)
def test_the_largest_load_is_the_last_within_the_limit(
    top: int, limit: int, time: int, handover: int, service: int
) -> None:
    prefill, decode = role(10, time, handover, service), role(10)
    most = int(Queue(top, limit, is_quiet=False).most(prefill, decode)[0])
    meets = [
        load for load in range(1, top + 1) if ttft(prefill, decode, np.array([load]))[0] <= limit
    ]
    assert most == max(meets, default=0)


@given(SIZES, SIZES)
def test_the_needed_load_is_the_first_that_serves_a_rate(rate: int, most: int) -> None:
    load = int(needed_load(rate, np.array(most)))
    assert served(load, np.array(most)) >= rate
    assert load == 1 or served(load - 1, np.array(most)) < rate


def test_prefill_serves_what_decode_takes_and_no_more() -> None:
    """Of 1,000, 600 at 60 %; where TTFT comes first, the required 200 at 20 %."""
    prefill, decode, needed = role(1000, service=10), role(600), np.array([200])
    assert Queue(95, None, is_quiet=False).chosen(prefill, decode, needed) == 60
    assert Queue(95, None, is_quiet=True).chosen(prefill, decode, needed) == 20
    assert Queue(50, None, is_quiet=False).chosen(prefill, decode, needed) == 50
    # 5 are left to wait: 10 x load / (2 (100 - load)) <= 5 up to half
    assert Queue(95, 5, is_quiet=False).chosen(prefill, decode, needed) == 50
