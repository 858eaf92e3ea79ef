"""What several measurements of task systems come to."""

from typing import Any

from bench.support.task_table import best, rows_of, tables


def _record(
    system: str, configuration: str, per_second: float, cpu: float, *, synced: bool = True, **more: Any
) -> dict[str, Any]:
    waits = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    figures = {
        "per_second": per_second,
        "drained_per_second": 2 * per_second,
        "accepts_per_second": 3 * per_second,
        "half_load": per_second / 2,
        "accept_to_start_ms": waits,
        "call_to_start_ms": waits,
        "cpu": {"worker": cpu},
        "cpu_whole": cpu,
        "accepted": 100,
        "lost": 0,
        **more,
    }
    return {"system": system, "configuration": configuration, "synced": synced, "figures": figures}


def test_rounds_of_one_configuration_are_one_row_with_its_median():
    """Three rounds, one of them an outlier."""
    rounds = [_record("celery", "threads", rate, 1.0) for rate in (300, 100, 110)]
    [row] = rows_of(rounds)
    assert row.middle("per_second") == 110
    assert "110 (100–300)" in tables([row])


def test_the_fastest_configuration_of_a_system_stands_for_it():
    """Those that sync what they accept compete among themselves."""
    rows = rows_of(
        [
            _record("celery", "slow", 100, 1.0, synced=False),
            _record("celery", "fast", 200, 2.0, synced=False),
            _record("celery", "quorum", 50, 2.0, synced=True),
        ]
    )
    assert [row.configuration for row in best(rows)] == ["fast", "quorum"]


def test_the_fastest_peer_and_the_thriftiest_may_be_two():
    """Ours is beside each in what it is best at, and beside those that are as durable apart from that."""
    told = tables(
        rows_of(
            [
                _record("agentmesh", "worker", 3000, 0.5),
                _record("dramatiq", "fast", 2000, 2.0, synced=False),
                _record("taskiq", "thrifty", 1000, 1.0, synced=False),
                _record("procrastinate", "only", 500, 4.0),
            ]
        )
    )
    assert "the best peer: 1.50 × the tasks/s of dramatiq (wanted 3), 0.50 × the CPU of taskiq" in told
    assert "syncs what it accepts: 6.00 × the tasks/s of procrastinate (wanted 3), 0.12 × the CPU of procrast" in told


def test_a_peer_that_loses_results_is_told():
    """Lost tasks of all rounds are added up."""
    told = tables(rows_of([_record("taskiq", "only", 10, 1.0, lost=lost) for lost in (0, 7, 4)]))
    assert "| 11 of 300 |" in told


def test_what_a_system_does_not_have_is_left_out():
    """No batches, and no service between client and worker."""
    told = tables(rows_of([_record("celery", "threads", 100, 1.0)]))
    assert "| celery | yes | 100 (100–100) | 200 (200–200) | 300 (300–300) | – |" in told
    assert "| celery | yes | – | – | 1.00 | – | – | 1.00 (1.00–1.00) |" in told


def test_ours_alone_is_beside_nobody():
    """A run of one system has no verdict."""
    assert "Beside" not in tables(rows_of([_record("agentmesh", "worker", 1, 1.0)]))
