"""The feed of a task: what its row and its result say already is read from there."""

import pytest

from tests.integration.tasks.core import Core, success

pytestmark = pytest.mark.postgres


async def test_a_feed_begins_with_the_task_and_ends_with_its_result(core: Core) -> None:
    """From any number on, with the moments of both, and as far as it was asked for."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, success(task_id))
    task = await core.queries.get(task_id, "")
    first, started, last = await core.queries.list_events(task_id, "", 0, 0)
    assert [(one.sequence, one.type, one.attempt) for one in (first, started, last)] == [
        (1, "queued", 0),
        (2, "started", 1),
        (3, "succeeded", 1),
    ]
    assert (first.at, last.at, first.data, last.data) == (task.created_at, task.finished_at, b"{}", b"{}")
    assert await core.queries.list_events(task_id, "", 0, 2) == [first, started]
    assert await core.queries.list_events(task_id, "", 2, 0) == [last]
    assert await core.queries.list_events(task_id, "", 3, 0) == []


async def test_what_an_earlier_release_kept_is_told_once(core: Core) -> None:
    """It wrote down the first event and the success too."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, success(task_id))
    feed = await core.queries.list_events(task_id, "", 0, 0)
    await core.sql(
        "INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)"
        " SELECT task_id, 1, 'queued', 0, created_at, '{}'::bytea FROM tasks.task WHERE task_id = $1"
        " UNION ALL SELECT task_id, 3, 'succeeded', 1, finished_at, '{}'::bytea FROM tasks.task_result"
        " WHERE task_id = $1",
        task_id,
    )
    assert await core.queries.list_events(task_id, "", 0, 0) == feed


async def test_nothing_of_a_plain_task_is_said_twice(core: Core) -> None:
    """Its start is all that is kept beside the task and its result."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, success(task_id))
    kept = await core.sql("SELECT type FROM tasks.task_event WHERE task_id = $1", task_id)
    assert [row["type"] for row in kept] == ["started"]
