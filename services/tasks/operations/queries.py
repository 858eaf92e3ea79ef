"""What callers ask of tasks that exist: one, a page, a feed, a cancellation, the summary."""

from collections.abc import Sequence

import orjson

from chassis.clock import Clock
from chassis.errors import Conflict, Invalid, NotFound
from services.tasks.model import rules
from services.tasks.model.states import State
from services.tasks.model.task import Change, Event, Live, Revival, Task, digest_unique
from services.tasks.operations import checks
from services.tasks.operations.figures import Figures
from services.tasks.ports import TaskStore


class Queries:
    """Another owner's task does not exist for the caller; an empty owner sees all."""

    def __init__(self, store: TaskStore, figures: Figures, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.figures = figures

    async def get(self, task_id: str, owner_id: str) -> Task:
        """Raises NotFound (``TASK_NOT_FOUND``)."""
        checks.check_text("owner_id", owner_id)
        task = await self._store.find(task_id, owner_id) if checks.is_task_id(task_id) else None
        if task is None:
            raise NotFound("There is no such task", code="TASK_NOT_FOUND")
        return task

    async def list_tasks(
        self, owner_id: str, states: Sequence[State], kinds: Sequence[str], *, offset: int, limit: int
    ) -> tuple[Sequence[Task], int]:
        """A page, newest first, and how many there are in all. A limit of 0 means 20."""
        for field, text in (("owner_id", owner_id), *(("kinds", kind) for kind in kinds)):
            checks.check_text(field, text)
        checks.check_page(offset, limit)
        return await self._store.list_tasks(owner_id, states, kinds, offset=offset, limit=limit or checks.PAGE)

    async def list_events(self, task_id: str, owner_id: str, since: int, limit: int) -> Sequence[Event]:
        """Events after `since`, in order, at most 1000. Raises NotFound."""
        await self.get(task_id, owner_id)
        # Sequences are 32 bits at rest; whoever asks for more has seen everything.
        return (
            []
            if since >= 2**31
            else await self._store.list_events(task_id, since, min(limit or checks.MOST_PER_PAGE, checks.MOST_PER_PAGE))
        )

    async def requeue(self, task_id: str, owner_id: str, attempts: int) -> tuple[Task, bool]:
        """Queues a task again that ended badly, for so many more attempts (0: one); whether it was not live already.

        Raises NotFound, Conflict (``NOT_REQUEUABLE`` with its ``state``, ``UNIQUE_KEY_TAKEN``), Exhausted.
        """
        if attempts > checks.MOST_ATTEMPTS:
            raise Invalid(f"attempts: At most {checks.MOST_ATTEMPTS}", details={"field": "attempts"})
        task = await self.get(task_id, owner_id)
        if not task.state.is_end:
            return task, False
        late = task.deadline_at is not None and task.deadline_at <= self._clock.now()
        kind = await self.figures.find_kind(task.kind)
        with self.figures.admitted([kind.group]):
            change = None if late else await self._store.requeue(_revival(task), lambda live: _revive(live, attempts))
        task = await self.get(task_id, owner_id)
        if change is None and task.state.is_end:
            details = {"state": task.state.name.lower()}
            raise Conflict("A task that ended so is not queued again", code="NOT_REQUEUABLE", details=details)
        return task, change is not None

    async def cancel(self, task_id: str, owner_id: str) -> Task:
        """Ends a task that waits, asks one that runs to stop; the task afterwards. Safe to repeat.

        Raises NotFound, and Conflict (``TASK_ENDED``, details ``state``) when it has ended in another way.
        """
        task = await self.get(task_id, owner_id)
        change = await self._store.cancel(task_id, owner_id, rules.cancel)
        if change is not None:
            self.figures.count_changes([change])
            return await self.get(task_id, owner_id)
        task = await self.get(task_id, owner_id)
        if task.state is State.CANCELLED:
            return task
        raise Conflict("The task has ended already", code="TASK_ENDED", details={"state": task.state.name.lower()})


def _revival(task: Task) -> Revival:
    digest = digest_unique(task.owner_id, task.kind, task.unique_key) if task.unique_key else None
    channel = checks.channel_of(orjson.loads(task.payload))
    return Revival(task_id=task.task_id, unique_digest=digest, channel=channel)


def _revive(live: Live, attempts: int) -> Change | None:
    return rules.requeue(live, attempts or 1)
