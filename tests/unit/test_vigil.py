from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nowserving.vigil import Vigil

LEASE = 10.0


def test_a_vigil_lasts_a_lease_before_it_counts() -> None:
    vigil = Vigil(LEASE)
    assert vigil.reap_until == 0
    for at in (100.0, 104.0, 108.0):
        vigil.note(at)
        assert vigil.reap_until == 0
    vigil.note(112.0)
    assert vigil.reap_until == 112.0 + LEASE / 2


def test_silence_an_error_or_a_clock_set_back_ends_it() -> None:
    ends: list[Callable[[Vigil], None]] = [lambda v: v.note(120.1), lambda v: v.note(114.0), lambda v: v.end()]
    for end in ends:
        vigil = Vigil(LEASE)
        for at in range(100, 116):
            vigil.note(float(at))
        assert vigil.reap_until > 0
        end(vigil)
        assert vigil.reap_until == 0


@given(st.lists(st.floats(0, 20), min_size=1, max_size=40))
def test_none_is_judged_unless_redis_answered_all_through_the_last_lease(pauses: list[float]) -> None:
    vigil, times = Vigil(LEASE), [0.0]
    for pause in pauses:
        times.append(times[-1] + pause)
    for at in times:
        vigil.note(at)
    until = vigil.reap_until
    if until:
        heard = [at for at in times if times[-1] - LEASE <= at]
        gaps = [b - a for a, b in pairwise(heard)]
        assert times[-1] >= LEASE
        assert all(gap <= LEASE / 2 for gap in gaps)
        assert until == times[-1] + LEASE / 2
