"""Submissions: checked, admitted, and committed in batches. What returns from here is durable."""

from collections.abc import Callable

from chassis.clock import Clock
from services.tasks.model.task import Accepted, Draft, Receipt, Submission
from services.tasks.operations.batches import Batcher
from services.tasks.operations.checks import check_draft
from services.tasks.operations.figures import Figures
from services.tasks.ports import TaskStore


class Intake:
    """Takes drafts. `batcher.run` has to run for anything to be accepted."""

    def __init__(self, store: TaskStore, figures: Figures, clock: Clock, new_task_id: Callable[[], str]) -> None:
        self._figures = figures
        self._clock = clock
        self._new_task_id = new_task_id
        self.batcher: Batcher[Submission, Accepted] = Batcher(store.accept)

    async def submit(self, draft: Draft) -> Receipt:
        """Accepts one task; it is committed when this returns.

        Raises:
            Invalid: a bad field, or a kind nobody announced (``UNKNOWN_KIND``).
            Conflict: the idempotency key was used for another request (``IDEMPOTENCY_MISMATCH``).
            Exhausted: too much waits already (``QUEUE_FULL``).
        """
        submission = await self._check(draft)
        return self._receipt(submission, await self.batcher.put(submission))

    async def _check(self, draft: Draft) -> Submission:
        kind = await self._figures.find_kind(draft.kind)
        submission = check_draft(draft, kind, self._new_task_id(), self._clock.now())
        self._figures.admit(kind.group)
        return submission

    def _receipt(self, submission: Submission, accepted: Accepted) -> Receipt:
        position, seconds = self._figures.count_accepted(submission, accepted)
        return Receipt(accepted=accepted, queue_position=position, estimated_seconds=seconds)
