"""The steps of schema `tasks`."""

import asyncio

import pytest
from alembic import command

from chassis import migrations
from chassis.config import Postgres
from tests.integration.tasks.core import open_core, success

pytestmark = pytest.mark.postgres


def test_the_steps_make_the_tables_of_the_code(tasks_url: str) -> None:
    """Upgrading leaves nothing to do."""
    migrations.check("tasks", Postgres(url=tasks_url))


def test_tasks_wait_for_each_other_over_the_step_to_news_and_back(tasks_url: str) -> None:
    """The last release finds its outbox again, and who began to wait under it is told of the end under the next."""
    step = migrations._config("tasks", Postgres(url=tasks_url))
    session, first, second = asyncio.run(_begin(tasks_url))
    command.downgrade(step, "0006")
    asyncio.run(_write_outbox(tasks_url))
    command.upgrade(step, "head")
    assert asyncio.run(_go_on(tasks_url, session, first)) == [(second, "work.builtin.p2")]
    migrations.check("tasks", Postgres(url=tasks_url))


def test_schedules_of_conversations_pause_and_others_go_on(tasks_url: str) -> None:
    """They were made when they could still be; nobody counts the tokens that they take."""
    step = migrations._config("tasks", Postgres(url=tasks_url))
    command.downgrade(step, "0008")
    asyncio.run(_schedule(tasks_url, "llm.batch", "llm.chat", "automation"))
    command.upgrade(step, "head")
    assert asyncio.run(_unpaused(tasks_url)) == ["automation"]


async def _schedule(url: str, *kinds: str) -> None:
    async with open_core(url) as core:
        for kind in kinds:
            await core.sql(
                "INSERT INTO tasks.cron_schedule"
                " VALUES ('sch_' || $1, 'ann', '', '@hourly', 'UTC', 1, false, $1, '', '', 2, 1, 1, '', now(), now())",
                kind,
            )


async def _unpaused(url: str) -> list[str]:
    async with open_core(url) as core:
        going = await core.sql("SELECT kind FROM tasks.cron_schedule WHERE NOT paused AND next_at IS NOT NULL")
        return [row["kind"] for row in going]


async def _begin(url: str) -> tuple[str, str, str]:
    async with open_core(url) as core:
        session = await core.open_session()
        first = await core.run(session)
        await core.sql("DELETE FROM tasks.pointer")
        return session, first, await core.submit_id(run_after=(first,))


async def _write_outbox(url: str) -> None:
    async with open_core(url) as core:
        await core.sql(
            "INSERT INTO tasks.outbox_events (id, exchange, routing_key, type, body, source)"
            " VALUES ('a#1', 'mesh.events', 'tasks.task.queued.x', 't', '', 'tasks')"
        )


async def _go_on(url: str, session: str, first: str) -> list[tuple[str, str]]:
    async with open_core(url) as core:
        assert not await core.finish(session, success(first))
        await core.upkeep.release()
        return await core.pointers()
