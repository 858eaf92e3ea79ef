"""Usage and kept answers in a real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from chassis import migrations
from chassis.config import Postgres
from chassis.database import Database, open_database
from chassis.errors import Conflict, Unavailable
from services.llm.model import Answer, Charge, Choice, Message, ModelUsage, Usage
from services.llm.ports import Held
from services.llm.store.answers import KeptAnswers
from services.llm.store.usage import UsageBook, UsageWriter
from tests.support.databases import Databases

pytestmark = pytest.mark.postgres

AT = datetime(2026, 1, 2, tzinfo=UTC)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ANSWER = Answer(
    id="i", model="m", provider="p", usage=Usage(input_tokens=3, output_tokens=2), created_at=AT,
    choices=(
        Choice(index=0, message=Message(role="assistant", content="hé\0", tool_calls=(CALL,)), finish_reason="stop"),
    ),
)  # fmt: skip


@pytest.fixture
def settings(databases: Databases) -> Iterator[Postgres]:
    with databases.migrated("llm") as url:
        yield Postgres(url=url)


@pytest.fixture
async def database(settings: Postgres) -> AsyncIterator[Database]:
    async with open_database(settings, "llm") as opened:
        yield opened


@pytest.fixture
def answers(database: Database) -> KeptAnswers:
    return KeptAnswers(database, hold_seconds=60, keep_seconds=60)


def charge(user: str, model: str = "m", outcome: str = "ok", at: datetime = AT) -> Charge:
    return Charge(
        at=at, user_id=user, api_key_id="a", model=model, provider="p", outcome=outcome,
        usage=Usage(input_tokens=3, output_tokens=2), duration_seconds=0.5,
    )  # fmt: skip


def test_the_migrations_say_what_the_tables_say(settings: Postgres):
    """Nothing is missing in the steps."""
    migrations.check("llm", settings)


async def test_usage_adds_up(database: Database):
    """By model, by user, since a time; failures are counted, cancellations are none."""
    writer, book = UsageWriter(database, bound=100), UsageBook(database)
    for row in (charge("u"), charge("u", outcome="PROVIDER_ERROR"), charge("u", outcome="cancelled"), charge("v", "n")):
        writer.record(row)
    writer.record(charge("u", at=AT - timedelta(days=2)))
    await writer.flush()
    recent = ModelUsage(model="m", requests=3, failures=1, input_tokens=9, output_tokens=6)
    assert await book.totals("u", AT - timedelta(days=1)) == (recent,)
    assert [total.requests for total in await book.totals("u", None)] == [4]
    assert [total.model for total in await book.totals("", None)] == ["m", "n"]
    assert await book.totals("nobody", None) == ()


async def test_usage_waits_for_the_database(database: Database, postgres_server):
    """What is charged while Postgres is down is there when it is back."""
    writer = UsageWriter(database, bound=100)
    writer.record(charge("u"))
    await writer.flush()
    postgres_server.stop()
    writer.record(charge("u"))
    flushing = asyncio.ensure_future(writer.flush())
    await asyncio.sleep(0.1)
    assert writer.backlog == 1
    postgres_server.heal()
    async with asyncio.timeout(30):
        await flushing
    assert [total.requests for total in await UsageBook(database).totals("u", None)] == [2]


async def test_usage_is_unavailable_without_the_database(database: Database, postgres_server):
    """Looking it up says so."""
    postgres_server.stop()
    with pytest.raises(Unavailable):
        await UsageBook(database).totals("u", None)


async def test_a_kept_answer_comes_back_whole(answers: KeptAnswers):
    """Tool calls, odd characters and all; for its owner alone."""
    held = await answers.hold("u", "k", b"f")
    assert isinstance(held, Held)
    assert await answers.hold("u", "k", b"f") is None
    await answers.keep("u", "k", held, ANSWER)
    assert await answers.hold("u", "k", b"f") == ANSWER
    assert isinstance(await answers.hold("v", "k", b"f"), Held)


async def test_only_one_of_many_holds_the_key(answers: KeptAnswers):
    """However many ask at the same time."""
    found = await asyncio.gather(*(answers.hold("u", "k", b"f") for _ in range(8)))
    assert [type(one) for one in found if one is not None] == [Held]


async def test_a_key_means_one_request(answers: KeptAnswers):
    """Before and after it is answered."""
    held = await answers.hold("u", "k", b"f")
    assert isinstance(held, Held)
    with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH") as refused:
        await answers.hold("u", "k", b"g")
    assert not refused.value.details, "a key may be one that the caller never saw"
    await answers.keep("u", "k", held, ANSWER)
    with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH"):
        await answers.hold("u", "k", b"g")


async def test_a_freed_key_can_be_taken(answers: KeptAnswers):
    """As if it had never been used, for any request."""
    held = await answers.hold("u", "k", b"f")
    assert isinstance(held, Held)
    await answers.free("u", "k", held)
    assert isinstance(await answers.hold("u", "k", b"g"), Held)


async def test_who_lost_the_key_has_no_say(database: Database):
    """After the lease another holds it; the first one's late answer changes nothing."""
    answers = KeptAnswers(database, hold_seconds=0, keep_seconds=60)
    first = await answers.hold("u", "k", b"f")
    second = await answers.hold("u", "k", b"f")
    assert isinstance(first, Held)
    assert isinstance(second, Held)
    await answers.keep("u", "k", first, ANSWER)
    await answers.free("u", "k", first)
    async with database.transaction() as connection:
        rows = await connection.execute(text("SELECT token::text, answer FROM llm.answers"))
        assert rows.all() == [(second.token, None)]


async def test_a_renewed_key_stays_ours(database: Database):
    """However long the provider takes; it is free soon after its holder has died."""
    answers = KeptAnswers(database, hold_seconds=60, keep_seconds=60)
    held = await answers.hold("u", "k", b"f")
    assert isinstance(held, Held)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE llm.answers SET held_until = now()"))
    await answers.renew("u", "k", held)
    assert await answers.hold("u", "k", b"f") is None
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE llm.answers SET held_until = now()"))
    await answers.renew("u", "k", Held(token=str(UUID(int=0))))
    assert isinstance(await answers.hold("u", "k", b"f"), Held)


async def test_answers_expire(database: Database):
    """Then the key is free again, and the sweep removes the row."""
    answers = KeptAnswers(database, hold_seconds=60, keep_seconds=0)
    for _ in range(2):
        held = await answers.hold("u", "k", b"f")
        assert isinstance(held, Held)
        await answers.keep("u", "k", held, ANSWER)
    assert await answers._sweep_once() == 1
    assert await answers._sweep_once() == 0


async def test_an_answer_is_not_lost_with_the_database(answers: KeptAnswers, postgres_server):
    """Keeping it fails without an error: the caller has it already."""
    held = await answers.hold("u", "k", b"f")
    assert isinstance(held, Held)
    postgres_server.stop()
    await answers.keep("u", "k", held, ANSWER)
    await answers.free("u", "k", held)
    with pytest.raises(Unavailable):
        await answers.hold("u", "k", b"f")
