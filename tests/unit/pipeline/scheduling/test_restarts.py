from framehaul_pipeline.scheduling.restarts import RestartBudget


def test_restarts_are_allowed_until_the_budget_of_the_window_is_spent() -> None:
    budget = RestartBudget(2, 10.0)
    assert [budget.spend(now_s) for now_s in (0.0, 1.0, 2.0)] == [True, True, False]
    assert budget.num_deaths == 3


def test_deaths_are_forgotten_with_time() -> None:
    budget = RestartBudget(1, 10.0)
    assert budget.spend(0.0)
    assert not budget.spend(10.0)
    assert budget.spend(20.1)
    assert budget.num_deaths == 1


def test_no_restart_at_all_is_a_budget_too() -> None:
    assert not RestartBudget(0, 10.0).spend(0.0)
