"""How refused rows of the outbox wait, and what its table holds."""

from sqlalchemy import MetaData

from chassis.messaging.outbox import Aside, outbox_table


def test_each_refusal_doubles_the_wait() -> None:
    """A quarter of a second first, half a minute at most."""
    aside, now, waits = Aside(), 0.0, []
    for _ in range(10):
        aside.settle([], [7], now)
        began = now
        while aside.waiting(now):
            now += 0.25
        waits.append(now - began)
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_confirmed_row_starts_over() -> None:
    """Nothing is remembered of what the broker took over in the end."""
    aside = Aside()
    aside.settle([], [7, 8], 0.0)
    aside.settle([7], [], 1.0)
    assert aside.waiting(0.0) == [8]


def test_rows_that_another_replica_published_are_forgotten() -> None:
    """The memory of refusals does not grow for ever."""
    aside = Aside()
    aside.settle([], list(range(1000)), 0.0)
    aside.settle([], [], 1000.0)
    assert aside.waiting(0.0) == []


def test_the_table_stands_in_the_schema_of_its_service() -> None:
    """A service's own SQL needs to give only what has no default."""
    table = outbox_table(MetaData(schema="tasks"))
    assert table.fullname == "tasks.outbox"
    needed = {column.name for column in table.c if column.server_default is None and not column.primary_key}
    assert needed == {"id", "exchange", "routing_key", "type", "body", "source"}
