"""Charges on their way to the database: batched, kept while it is away, counted when there is no room."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from chassis.errors import Unavailable
from services.llm.model import Charge, Usage
from services.llm.store.usage import UsageWriter


class FakeDatabase:
    """Remembers what was inserted; while `away` is set, nothing is."""

    def __init__(self) -> None:
        self.away = False
        self.lose_the_commit = False
        self.rows: dict[object, str] = {}
        self.batches: list[int] = []

    @asynccontextmanager
    async def driver(self):
        if self.away:
            raise Unavailable(code="DATABASE_ERROR")
        yield self
        if self.lose_the_commit:
            self.lose_the_commit = False
            raise Unavailable(code="DATABASE_ERROR")

    async def execute(self, statement, ids, at, users, *columns):
        assert "ON CONFLICT (id) DO NOTHING" in statement
        assert {len(column) for column in (at, *columns)} == {len(ids)}
        self.rows.update(dict(zip(ids, users, strict=True)))
        self.batches.append(len(ids))


def charge(user: str = "u") -> Charge:
    return Charge(
        at=datetime(2026, 1, 1, tzinfo=UTC), user_id=user, api_key_id="", model="m", provider="p", outcome="ok",
        usage=Usage(input_tokens=1, output_tokens=2), duration_seconds=0.1,
    )  # fmt: skip


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


async def test_charges_go_in_batches(database):
    """In order, a thousand at a time."""
    writer = UsageWriter(database, bound=10_000)
    for number in range(2500):
        writer.record(charge(str(number)))
    await writer.flush()
    assert database.batches == [1000, 1000, 500]
    assert list(database.rows.values()) == [str(number) for number in range(2500)]
    assert writer.backlog == 0


async def test_nothing_is_lost_while_the_database_is_away(database):
    """What waits is written when it is back, together with what came meanwhile."""
    writer = UsageWriter(database, bound=10)
    database.away = True
    writer.record(charge("early"))
    assert not await writer._write()
    writer.record(charge("late"))
    assert writer.backlog == 2
    database.away = False
    await writer.flush()
    assert list(database.rows.values()) == ["early", "late"]


async def test_a_lost_commit_counts_once(database):
    """The batch is sent again under the same ids."""
    writer = UsageWriter(database, bound=10)
    writer.record(charge())
    database.lose_the_commit = True
    assert not await writer._write()
    await writer.flush()
    assert database.batches == [1, 1]
    assert len(database.rows) == 1


async def test_beyond_the_bound_charges_are_counted(database):
    """The request never waits and never fails; the loss has a number."""
    writer = UsageWriter(database, bound=3)
    for _ in range(5):
        writer.record(charge())
    assert (writer.backlog, writer.lost) == (3, 2)


async def test_a_nul_in_a_name_holds_up_nobody(database):
    """Postgres has no such character."""
    writer = UsageWriter(database, bound=3)
    writer.record(charge("a\0b"))
    await writer.flush()
    assert list(database.rows.values()) == ["a\ufffdb"]
