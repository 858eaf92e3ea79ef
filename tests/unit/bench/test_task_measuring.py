"""What is made of submissions and results."""

import pytest

from bench.support.task_measuring import ledger, waits
from bench.support.task_systems import SYSTEMS
from bench.support.tasks_stage import by_group


def test_every_accepted_task_is_looked_for_among_the_results():
    """One result is missing, one is there twice, one belongs to nobody that is known."""
    told = ledger(["a", "b", "c"], ["a", "b", "b", "warm-up"])
    assert told == {"accepted": 3, "lost": 1, "doubled": 1}


def test_waits_count_from_the_answer_and_from_the_call():
    """A task that started before its answer has not waited; one that never started has no wait."""
    calls = [("early", 10.0, 10.5), ("late", 10.0, 10.5), ("never", 10.0, 10.5)]
    told = waits(calls, {"early": 10.1, "late": 10.7})
    assert told["accept_to_start_ms"]["p50"] == pytest.approx(100)
    assert told["call_to_start_ms"]["p50"] == pytest.approx(400)


def test_processes_of_one_kind_are_counted_together():
    """As the table shows them."""
    assert by_group({"worker-0": 1.0, "worker-1": 0.5, "postgres": 2.0}) == {"worker": 1.5, "postgres": 2.0}


def test_every_peer_is_tried_in_at_least_three_configurations():
    """A loser that was not tuned proves nothing."""
    assert all(len(system.configurations) >= 3 for system in SYSTEMS if system.pinned)


def test_the_best_of_a_system_are_the_first_of_each_durability():
    """Those whose broker syncs what it accepts are measured besides the faster ones."""
    best = {system.name: system.best for system in SYSTEMS}
    assert best["agentmesh"] == ["1x512"]
    assert len(best["procrastinate"]) == 1
    assert [len(best[name]) for name in ("celery", "dramatiq", "taskiq")] == [2, 2, 2]
