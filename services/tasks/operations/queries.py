"""What callers ask of tasks that exist: one, a page, a feed, a cancellation, the summary."""

from collections.abc import Sequence

from chassis.errors import Conflict, Invalid, NotFound
from services.tasks.model import rules
from services.tasks.model.states import State
from services.tasks.model.task import Event, Task
from services.tasks.operations import checks
from services.tasks.operations.figures import Figures
from services.tasks.ports import TaskStore

_PAGE, _MOST = 20, 1000
_MOST_OFFSET = 1_000_000


class Queries:
    """Another owner's task does not exist for the caller; an empty owner sees all."""

    def __init__(self, store: TaskStore, figures: Figures) -> None:
        self._store = store
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
        if limit > _MOST:
            raise Invalid(f"limit: At most {_MOST}", details={"field": "limit"})
        if offset > _MOST_OFFSET:
            raise Invalid(f"offset: At most {_MOST_OFFSET}", details={"field": "offset"})
        return await self._store.list_tasks(owner_id, states, kinds, offset=offset, limit=limit or _PAGE)

    async def list_events(self, task_id: str, owner_id: str, since: int, limit: int) -> Sequence[Event]:
        """Events after `since`, in order, at most 1000. Raises NotFound."""
        await self.get(task_id, owner_id)
        # Sequences are 32 bits at rest; whoever asks for more has seen everything.
        return [] if since >= 2**31 else await self._store.list_events(task_id, since, min(limit or _MOST, _MOST))

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
