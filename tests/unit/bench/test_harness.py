import math

import pytest
from bench.harness import command_line, medians, percentile, rotated, run_rounds, table, union_length
from hypothesis import given
from hypothesis import strategies as st

INTERVALS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda pair: (float(pair[0]), float(sum(pair)))), max_size=12
)


def test_percentile_interpolates_between_neighbours() -> None:
    """The 50th of an even number of values lies between the middle two; 0 and 100 are the ends."""
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, percent) for percent in (0, 50, 100)] == [1.0, 2.5, 4.0]


def test_percentile_of_nothing_is_not_a_number() -> None:
    """No values give NaN, so that a table shows a dash."""
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize("percent", [-1, 101])
def test_percentile_refuses_what_is_none(percent: float) -> None:
    """The error names the value and the range."""
    with pytest.raises(ValueError, match=r"0\.\.100"):
        percentile([1.0], percent)


@given(INTERVALS)
def test_union_counts_every_covered_unit_once(intervals: list[tuple[float, float]]) -> None:
    """The union's length is the number of unit cells that any interval covers."""
    cells = {cell for start, end in intervals for cell in range(int(start), int(end))}
    assert union_length(intervals) == len(cells)


def test_union_joins_what_overlaps_and_skips_gaps() -> None:
    """Nested, overlapping and separate intervals."""
    assert union_length([(0.0, 4.0), (1.0, 2.0), (3.0, 6.0), (10.0, 11.0)]) == 7.0


def test_rotation_gives_every_case_every_place() -> None:
    """Over as many rounds as cases, each place is held by each case once."""
    orders = [rotated("abc", round_index) for round_index in range(3)]
    assert sorted(zip(*orders, strict=True)) == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]


def test_rounds_give_medians_and_the_spread_of_the_first_figure() -> None:
    """Every case is measured in every round."""
    samples = {"x": iter([1.0, 3.0, 2.0]), "y": iter([5.0, 5.0, 5.0])}
    found = run_rounds(("x", "y"), 3, lambda case: {"value": next(samples[case])})
    assert found == {"x": {"value": 2.0, "spread": 3.0}, "y": {"value": 5.0, "spread": 1.0}}


def test_a_spread_over_zero_is_not_a_number() -> None:
    """Nothing is divided by zero."""
    assert math.isnan(medians([{"value": 0.0}, {"value": 1.0}])["spread"])


def test_a_table_shows_three_digits() -> None:
    """Small figures keep their digits, large ones get separators, missing ones a dash."""
    rows = table(["name", "value"], [["a", 0.12345], ["b", 12345.6], ["c", math.nan], ["d", 7]]).splitlines()[2:]
    assert rows == ["| a | 0.123 |", "| b | 12,346 |", "| c | - |", "| d | 7 |"]


def test_commands_name_no_folder_of_this_machine() -> None:
    """Absolute paths are left out of what is published."""
    assert command_line(["/usr/bin/python", "-m", "bench.gpu", "--seconds", "3", "/tmp/x"]) == (
        "python -m bench.gpu --seconds 3"
    )
