"""The front holds no dominated point and every other point is dominated."""

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.pareto import pareto_front

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30)


def dominates(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a != b


@given(points)
@settings(deadline=None)
def test_against_the_definition(raw):
    front = pareto_front(raw, lambda p: p[0], lambda p: p[1])
    kept = set(front)
    assert len(kept) == len(front)
    assert kept == {p for p in raw if not any(dominates(q, p) for q in raw)}
    assert front == sorted(front)
