from typing import Any

from bench.load import judge
from bench.scenarios import Scenario, lateness_ms


def scenario(**changes: Any) -> Scenario:
    return Scenario(name="s", options=(), least=2, **changes)


def test_a_scenario_passes_with_the_statuses_it_allows() -> None:
    """Enough calls, all of them OK."""
    assert judge(scenario(), {"count": 2, "statusCodeDistribution": {"OK": 2}}) == []


def test_an_unexpected_status_fails() -> None:
    """Its count and name are told."""
    found = {"count": 3, "statusCodeDistribution": {"OK": 2, "Internal": 1}}
    assert judge(scenario(), found) == ["1 Internal"]


def test_a_scenario_that_shows_nothing_fails() -> None:
    """Admission without a refusal, or too few calls."""
    strict = scenario(allowed=("OK", "ResourceExhausted"), needed=("OK", "ResourceExhausted"))
    wrong = judge(strict, {"count": 1, "statusCodeDistribution": {"OK": 1}})
    assert wrong == ["no ResourceExhausted", "1 calls: at least 2 were to be made"]


def test_lateness_is_the_time_beyond_the_pace() -> None:
    """The last of n messages leaves n - 1 intervals after the first."""
    assert lateness_ms(4000.0, num_messages=25, interval_ms=160) == 160.0
