"""T13 on a real database: what ended badly is live again."""

from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Conflict, NotFound
from services.tasks.model.states import State
from tests.integration.tasks.core import Core, failure, success

pytestmark = pytest.mark.postgres


async def kill(core: Core, session: str, **changes: object) -> str:
    """A task that is dead."""
    task_id = await core.run(session, max_attempts=1, **changes)
    assert await core.finish(session, failure(task_id)) == []
    assert (await core.queries.get(task_id, "")).state is State.DEAD
    return task_id


async def test_a_dead_letter_is_queued_again_and_may_succeed(core: Core) -> None:
    """Its attempts and its feed go on, and its old end stays with the dead letters."""
    session = await core.open_session()
    task_id = await kill(core, session)
    task, requeued = await core.queries.requeue(task_id, "ann", 0)
    assert (requeued, task.state, task.attempt, task.max_attempts, task.error) == (True, State.QUEUED, 1, 2, None)
    (claimed,) = await core.claim(session, task_id, attempt=1)
    assert claimed.attempt == 2
    assert await core.finish(session, success(task_id, attempt=2)) == []
    assert await core.event_types(task_id) == ["queued", "started", "dead", "queued", "started", "succeeded"]
    letters = await core.sql("SELECT attempt, error_code FROM tasks.dead_letter WHERE task_id = $1", task_id)
    assert [tuple(row) for row in letters] == [(1, "HANDLER_ERROR")]


async def test_an_attempt_from_before_has_no_effect_afterwards(core: Core) -> None:
    """Its number is fenced, and its pointer too."""
    session = await core.open_session()
    task_id = await kill(core, session)
    await core.queries.requeue(task_id, "ann", 3)
    assert await core.claim(session, task_id, attempt=0) == ()
    assert len(await core.finish(session, success(task_id, attempt=1))) == 1


async def test_a_live_task_is_left_as_it_is(core: Core) -> None:
    """Repeating a requeue does nothing."""
    task_id = await core.submit_id()
    await core.queries.cancel(task_id, "ann")
    assert (await core.queries.requeue(task_id, "ann", 0))[1]
    assert not (await core.queries.requeue(task_id, "ann", 0))[1]
    assert await core.event_types(task_id) == ["queued", "cancelled", "queued"]


async def test_what_cannot_be_requeued_says_why(core: Core) -> None:
    """A success, a deadline that has passed, another owner's."""
    session = await core.open_session()
    done = await core.run(session)
    await core.finish(session, success(done))
    late = await kill(core, session, deadline_at=datetime.now(UTC) + timedelta(hours=1))
    await core.sql("UPDATE tasks.task SET deadline_at = now() WHERE task_id = $1", late)
    for task_id, state in ((done, "succeeded"), (late, "dead")):
        with pytest.raises(Conflict) as caught:
            await core.queries.requeue(task_id, "ann", 0)
        assert (caught.value.code, caught.value.details) == ("NOT_REQUEUABLE", {"state": state})
    with pytest.raises(NotFound):
        await core.queries.requeue(done, "bob", 0)


async def test_a_requeued_task_does_not_take_a_key_that_another_has(core: Core) -> None:
    """The live one keeps it; afterwards the requeued one has it."""
    session = await core.open_session()
    dead = await kill(core, session, unique_key="u")
    other = await core.submit_id(unique_key="u")
    with pytest.raises(Conflict) as caught:
        await core.queries.requeue(dead, "ann", 0)
    assert caught.value.code == "UNIQUE_KEY_TAKEN"
    await core.queries.cancel(other, "ann")
    assert (await core.queries.requeue(dead, "ann", 0))[1]
    assert (await core.submit(unique_key="u")).accepted.duplicate
