"""The operations of one tasks process over a real database, and short words for what tests do with them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chassis.clock import SystemClock
from chassis.config import Postgres
from chassis.database import Database, open_database
from services.tasks.model.ids import Ids
from services.tasks.model.states import Due, Priority
from services.tasks.model.task import Draft, Kind, Receipt, TaskError
from services.tasks.model.webhooks import Answer
from services.tasks.model.work import ClaimBatch, Claimed, Failure, Opening, Outcome, OutcomeBatch, Pointer
from services.tasks.operations.desk import Desk
from services.tasks.operations.figures import Figures, Limits
from services.tasks.operations.intake import Intake
from services.tasks.operations.queries import Queries
from services.tasks.operations.schedules import Schedules
from services.tasks.operations.upkeep import Upkeep
from services.tasks.operations.watches import Watches
from services.tasks.operations.webhooks import Webhooks
from services.tasks.ports import Post
from services.tasks.store.store import HOT_PLANNER, PLANNER, Store

KIND = Kind(kind="automation", group="builtin", max_attempts=3, timeout_seconds=60)


@dataclass
class Queues:
    """The broker's queues as a test wants them."""

    empty: list[tuple[str, Priority]] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    ready: dict[tuple[str, Priority], int] = field(default_factory=dict)

    async def declare(self, groups: Sequence[str]) -> None:
        self.declared = list(groups)

    async def find_empty(self, queues: Sequence[tuple[str, Priority]]) -> list[tuple[str, Priority]]:
        return [queue for queue in queues if queue in self.empty]

    async def count_ready(self, group: str, priority: Priority) -> int:
        return self.ready.get((group, priority), 0)


@dataclass
class Core:
    """One process's operations."""

    database: Database
    store: Store
    figures: Figures
    intake: Intake
    desk: Desk
    queries: Queries
    schedules: Schedules
    watches: Watches
    webhooks: Webhooks
    post: Post
    upkeep: Upkeep
    queues: Queues
    due: list[Due]

    async def submit(self, **changes: Any) -> Receipt:
        return await self.intake.submit(draft(**changes))

    async def submit_id(self, **changes: Any) -> str:
        return (await self.submit(**changes)).accepted.task.task_id

    async def open_session(self) -> str:
        opening = Opening(session_id="", worker_name="worker", host="here", kinds=(KIND,), slots=10)
        return await self.keep(await self.desk.open_session(opening))

    async def keep(self, session_id: str) -> str:
        """Nothing beats here, and a slow machine shall not lose a session that the test needs."""
        await self.sql(
            "UPDATE tasks.worker_session SET lease_until = now() + interval '1 hour' WHERE session_id = $1", session_id
        )
        return session_id

    async def claim(self, session_id: str, *task_ids: str, attempt: int = 0) -> Sequence[Claimed]:
        pointers = tuple(Pointer(task_id=task_id, attempt=attempt) for task_id in task_ids)
        return await self.desk.claim(ClaimBatch(session_id=session_id, pointers=pointers))

    async def run(self, session_id: str, **changes: Any) -> str:
        """Submits and claims."""
        task_id = await self.submit_id(**changes)
        assert await self.claim(session_id, task_id)
        return task_id

    async def finish(self, session_id: str, *outcomes: Outcome) -> list[Pointer]:
        return await self.desk.finish(OutcomeBatch(session_id=session_id, outcomes=outcomes))

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with self.database.driver() as pg:
            return await pg.fetch(statement, *values)

    async def event_types(self, task_id: str) -> list[str]:
        """The feed's types, after a look at its sequence numbers."""
        events = await self.queries.list_events(task_id, "", 0, 0)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        return [event.type for event in events]

    async def pointers(self) -> list[tuple[str, str]]:
        """Task and queue of the pointers that wait to be published, in order."""
        rows = await self.sql("SELECT task_id, work_group, priority FROM tasks.pointer ORDER BY seq")
        return [(row["task_id"], f"work.{row['work_group']}.p{4 - row['priority']}") for row in rows]

    async def lose(self, session_id: str) -> None:
        """The session's lease runs out."""
        await self.sql(
            "UPDATE tasks.worker_session SET lease_until = to_timestamp(0) WHERE session_id = $1", session_id
        )


def draft(**changes: Any) -> Draft:
    """A submission of a no-op."""
    values: dict[str, Any] = {
        "owner_id": "ann",
        "kind": "automation",
        "priority": 0,
        "payload": b'{"action":"test"}',
        "labels": b"",
        "max_attempts": 0,
        "timeout_seconds": 0,
        "run_at": None,
        "deadline_at": None,
        "traceparent": "",
        "idempotency_key": "",
    }
    return Draft(**{**values, **changes})


def success(task_id: str, attempt: int = 1, result: bytes = b'{"ok":true}') -> Outcome:
    return Outcome(task_id=task_id, attempt=attempt, result=result)


def failure(task_id: str, attempt: int = 1, *, retryable: bool = True) -> Outcome:
    error = TaskError(code="HANDLER_ERROR", message="it broke")
    return Outcome(task_id=task_id, attempt=attempt, failure=Failure(error=error, retryable=retryable))


class Anywhere:
    """Takes every address, and every try goes well."""

    async def check(self, url: str) -> None:
        pass

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return Answer(status=204)


def open_webhooks(store: Store, post: Post, most_per_owner: int = 20) -> Webhooks:
    """The owners' operations."""
    ids = Ids()
    return Webhooks(
        store,
        store,
        post,
        clock=SystemClock(),
        most_per_owner=most_per_owner,
        new_id=partial(ids.new, "hook"),
        new_event_id=partial(ids.new, "evt_ping"),
    )


@asynccontextmanager
async def open_core(url: str, *, most_queued: int = 100_000) -> AsyncIterator[Core]:
    """Opens the operations with their batchers running."""
    async with (
        open_database(Postgres(url=url), schema="tasks", planner=PLANNER) as database,
        open_database(Postgres(url=url), schema="tasks", planner=HOT_PLANNER) as hot,
    ):
        due: list[Due] = []
        ids = Ids()
        store = Store(database, due.extend, hot=hot)
        queues = Queues()
        post = Anywhere()
        figures = Figures(store, SystemClock(), lambda: 0, limits=Limits(most=most_queued), most_unpublished=1_000_000)
        intake = Intake(store, figures, SystemClock(), partial(ids.new, "task"))
        desk = Desk(store, figures, queues, partial(ids.new, "ses"))
        upkeep = Upkeep(store, figures, queues=queues, instance="one", clock=SystemClock(), retained_days=14)
        schedules = Schedules(store, intake, figures, clock=SystemClock(), new_schedule_id=partial(ids.new, "sched"))
        running = [
            asyncio.ensure_future(batcher.run())
            for batcher in (intake.batcher, *desk.batchers.values())
            for _ in range(2)
        ]
        core = Core(
            database=database,
            store=store,
            figures=figures,
            intake=intake,
            desk=desk,
            queries=Queries(store, figures, SystemClock()),
            schedules=schedules,
            watches=Watches(store, partial(ids.new, "watch")),
            webhooks=open_webhooks(store, post),
            post=post,
            upkeep=upkeep,
            queues=queues,
            due=due,
        )
        try:
            yield core
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
