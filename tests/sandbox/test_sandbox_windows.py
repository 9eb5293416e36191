"""The window rules, for any sequence of requests."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from arche_magic.sandbox.windows import Bucket, Calendar, Rolling

STEPS = st.lists(st.tuples(st.floats(0, 5_000), st.integers(1, 10)), max_size=30)


@given(
    rule=st.sampled_from((Bucket, Calendar, Rolling)),
    period=st.sampled_from(("second", "minute", "hour", "day")),
    limit=st.integers(10, 50),
    steps=STEPS,
    asked=st.integers(1, 10),
)
def test_what_was_refused_fits_after_the_announced_wait(rule, period, limit, steps, asked):
    """The wait is always long enough, and is 0 only if the request fits."""
    window, now = rule(limit, period), 1_795_000_000.0
    for seconds, amount in steps:
        now += seconds
        if window.wait(now, amount) == 0:
            window.add(now, amount)
            assert window.used(now) <= limit + 1e-6
    wait = window.wait(now, asked)
    assert 0 <= wait < math.inf
    assert window.wait(now + wait + 1e-3, asked) == 0
    if wait == 0:
        assert window.used(now) + asked <= limit + 1e-6


@given(rule=st.sampled_from((Bucket, Calendar, Rolling)), limit=st.integers(0, 9))
def test_more_than_the_limit_never_fits(rule, limit):
    """A request above the limit waits forever."""
    assert rule(limit, "minute").wait(1_795_000_000.0, limit + 1) == math.inf
