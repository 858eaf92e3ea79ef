"""Submissions: checked, admitted, and committed in batches. What returns from here is durable."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError
from services.tasks.model import graph
from services.tasks.model.task import Accepted, Draft, Kind, Receipt, Submission
from services.tasks.operations.batches import Batcher
from services.tasks.operations.checks import check_draft
from services.tasks.operations.direct import Direct
from services.tasks.operations.figures import Figures
from services.tasks.ports import TaskStore

MOST_AT_ONCE = 500
_MOST_BYTES_AT_ONCE = 8 * 1024 * 1024


class Intake:
    """Takes drafts. `batcher.run` has to run for anything to be accepted.

    Args:
        direct: the short way for pointers; None: all of them wait for the feeder.
    """

    def __init__(
        self,
        store: TaskStore,
        figures: Figures,
        clock: Clock,
        new_task_id: Callable[[], str],
        *,
        direct: Direct | None = None,
    ) -> None:
        self._store = store
        self._direct = direct
        self._figures = figures
        self._clock = clock
        self._new_task_id = new_task_id
        self.batcher: Batcher[Submission, Accepted] = Batcher(self._accept)

    async def submit(self, draft: Draft) -> Receipt:
        """Accepts one task; it is committed when this returns.

        Raises:
            Invalid: a bad field, a kind nobody announced (``UNKNOWN_KIND``), a prerequisite that does not exist or is
                another owner's (``UNKNOWN_PREREQUISITE``).
            Conflict: the idempotency key was used for another request (``IDEMPOTENCY_MISMATCH``).
            Exhausted: too much waits already (``QUEUE_FULL``).
        """
        submission = await self.check(draft)
        with self._figures.admitted([submission.group]):
            receipt = self._receipt(submission, await self.batcher.put(submission))
        if not submission.idempotency_key:
            return receipt
        # A commit of its own: whoever repeats the request before it has no answer yet that could differ.
        return await self._store.keep_receipt(submission.owner_id, submission.idempotency_key, receipt)

    async def submit_many(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Accepts all of them in one commit, or none; they may run after each other, by "#" and their names.

        Raises as `submit`, with the number of the draft as `index` in the details; besides Invalid for a circle
        (``DEPENDENCY_CYCLE``) and for names that are used twice or not at all.
        """
        if not 0 < len(drafts) <= MOST_AT_ONCE:
            raise Invalid(f"requests: Between 1 and {MOST_AT_ONCE}", details={"field": "requests"})
        if sum(len(draft.payload) for draft in drafts) > _MOST_BYTES_AT_ONCE:
            raise Invalid(
                f"requests: At most {_MOST_BYTES_AT_ONCE} bytes of payload",
                code="PAYLOAD_TOO_LARGE",
                details={"field": "requests"},
            )
        task_ids = [self._new_task_id() for _ in drafts]
        submissions = []
        for index, draft in enumerate(graph.resolve(drafts, task_ids)):
            try:
                submissions.append(await self.check(draft, task_ids[index]))
            except Invalid as error:
                error.details = {**error.details, "index": str(index)}
                raise
        with self._figures.admitted([submission.group for submission in submissions]):
            accepted = await self._store.accept_all(submissions, self._reserve(submissions))
            self._hand(submissions, accepted)
            return [self._receipt(*pair) for pair in zip(submissions, accepted, strict=True)]

    async def check(self, draft: Draft, task_id: str = "") -> Submission:
        """The submission that a draft makes. Raises Invalid."""
        kind = await self._figures.find_kind(draft.kind)
        submission = check_draft(draft, kind, task_id or self._new_task_id(), self._clock.now())
        bound = self._figures.bound_of(kind.group)
        return replace(submission, bound=bound) if bound else submission

    def check_known(self, draft: Draft, kind: Kind) -> Submission:
        """The same for a kind that is at hand."""
        return check_draft(draft, kind, self._new_task_id(), self._clock.now())

    async def _accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | MeshError]:
        answers = await self._store.accept(submissions, self._reserve(submissions))
        self._hand(submissions, answers)
        return answers

    def _reserve(self, submissions: Sequence[Submission]) -> frozenset[str]:
        return frozenset() if self._direct is None else self._direct.reserve(submissions)

    def _hand(self, submissions: Sequence[Submission], answers: Sequence[Accepted | MeshError]) -> None:
        if self._direct is not None:
            self._direct.hand(submissions, answers)

    def _receipt(self, submission: Submission, accepted: Accepted) -> Receipt:
        position, seconds = self._figures.count_accepted(submission, accepted)
        now, run_at = self._clock.now(), accepted.task.run_at
        return Receipt(
            accepted=accepted,
            queue_position=position,
            estimated_seconds=seconds,
            estimated_at=max(now, run_at or now) + timedelta(seconds=seconds),
        )
