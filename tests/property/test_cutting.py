"""Cutting: whatever the order of decoding, an excerpt has each of its frames once, and no packet that lacks another."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from framehaul_client.core.cutting import Packet, decode_times, exact_plan, whole_plan


@st.composite
def films(draw: st.DrawFn) -> list[Packet]:
    """Groups of any order that begin with key frames, joints or not; some have frames that lead them."""
    film: list[Packet] = []
    shown = 0
    for _ in range(draw(st.integers(1, 5))):
        size, leading = draw(st.integers(1, 8)), draw(st.integers(0, 2)) if film else 0
        key = shown + leading
        film.append(Packet(key, key=True, joint=draw(st.booleans())))
        film += [Packet(each, key=False, joint=False) for each in range(shown, key)]
        rest = draw(st.permutations(range(key + 1, key + size)))
        film += [Packet(each, key=False, joint=False) for each in rest]
        shown = key + size
    return film


@given(films(), st.data())
def test_an_exact_excerpt_has_each_frame_once(film: list[Packet], data: st.DataObject) -> None:
    """Encoded or copied; and what is copied begins with a joint, and is shown in one piece."""
    last = max(each.pts for each in film)
    start = data.draw(st.integers(0, last))
    end = data.draw(st.integers(start + 1, last + 1))
    plan = exact_plan(film, start, end)
    copied = [film[index].pts for index in plan.copied]
    assert sorted([*range(*plan.head), *copied, *range(*plan.tail)]) == list(range(start, end))
    if copied:
        assert film[plan.copied[0]].joint
        assert copied[0] == min(copied)
        gone = set(range(plan.copied[0], plan.copied[-1] + 1)) - set(plan.copied)
        assert all(film[index].pts < copied[0] for index in gone)


@given(films(), st.data())
def test_a_whole_excerpt_has_all_that_was_asked_for(film: list[Packet], data: st.DataObject) -> None:
    """From a key frame on, in one piece."""
    last = max(each.pts for each in film)
    start = data.draw(st.integers(0, last))
    end = data.draw(st.integers(start + 1, last + 1))
    plan = whole_plan(film, start, end)
    copied = sorted(film[index].pts for index in plan.copied)
    assert copied == list(range(copied[0], copied[-1] + 1))
    assert copied[0] <= start < end <= copied[-1] + 1
    assert film[plan.copied[0]].key


@given(films())
def test_decoding_never_comes_late(film: list[Packet]) -> None:
    """Its times rise."""
    shown = [each.pts for each in film]
    times = decode_times(shown)
    assert all(time <= own for time, own in zip(times, shown, strict=True))
    assert all(one < other for one, other in pairwise(times))
