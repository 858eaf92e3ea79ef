"""Retry budget and backoff."""

from chassis.retry import RetryBudget, backoff_seconds


def test_the_budget_runs_out_and_calls_refill_it():
    """Ten retries in reserve, then one for every ten calls."""
    budget = RetryBudget()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(11):
        budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]


def test_backoff_grows_to_its_bound():
    """The wait is random below a bound that doubles and then stays."""
    for attempt, bound in ((0, 0.02), (3, 0.16), (30, 1.0)):
        waits = [backoff_seconds(attempt) for _ in range(200)]
        assert min(waits) >= 0
        assert max(waits) <= bound
        assert max(waits) > bound / 2
