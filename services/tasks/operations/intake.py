"""Submissions: checked, admitted, and committed in batches. What returns from here is durable."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias, TypeVar

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, Unavailable
from services.tasks.model import graph
from services.tasks.model.task import Accepted, Draft, Kind, Receipt, Submission
from services.tasks.operations.batches import Batcher
from services.tasks.operations.checks import check_draft
from services.tasks.operations.direct import Direct
from services.tasks.operations.figures import Figures
from services.tasks.operations.lobby import Lobby
from services.tasks.operations.offers import Offer, Offers
from services.tasks.ports import TaskStore

A = TypeVar("A", bound=Accepted | MeshError)
# `accept` or `accept_all` of the store.
_Write: TypeAlias = Callable[[Sequence[Submission], Collection[str], Mapping[str, str]], Awaitable[Sequence[A]]]

MOST_AT_ONCE = 500
_MOST_BYTES_AT_ONCE = 8 * 1024 * 1024


class Intake:
    """Takes drafts. `batcher.run` has to run for anything to be accepted.

    Args:
        direct: the short way for pointers; None: all of them wait for the feeder.
        offers: slots in which what could take the short way begins without a pointer; None: nobody offers any.
    """

    def __init__(
        self,
        store: TaskStore,
        figures: Figures,
        clock: Clock,
        new_task_id: Callable[[], str],
        *,
        direct: Direct | None = None,
        offers: Offers | None = None,
    ) -> None:
        self._store = store
        self._direct = direct
        self._offers = offers
        self._figures = figures
        self._clock = clock
        self._new_task_id = new_task_id
        self.batcher: Batcher[Submission, Receipt] = Batcher(self._accept, drop=self._drop)
        self.lobby: Lobby | None = None
        if direct is not None and offers is not None:
            self.lobby = Lobby(offers, direct, figures, self.batcher, drop=self._leave)

    async def submit(self, draft: Draft) -> Receipt:
        """Accepts one task; it is committed when this returns.

        Raises:
            Invalid: a bad field, a kind nobody announced (``UNKNOWN_KIND``), a prerequisite that does not exist or is
                another owner's (``UNKNOWN_PREREQUISITE``).
            Conflict: the idempotency key was used for another request (``IDEMPOTENCY_MISMATCH``).
            Exhausted: too much waits already (``QUEUE_FULL``).
        """
        receipt = await self._put(submission := await self.check(draft))
        if not submission.idempotency_key:
            return receipt
        # A commit of its own: whoever repeats the request before it has no answer yet that could differ.
        return await self._store.keep_receipt(submission.owner_id, submission.idempotency_key, receipt)

    def begin(self, draft: Draft) -> asyncio.Future[Receipt] | None:
        """The same for a draft that waits for nothing but its batch; None for any other: nothing was begun."""
        kind = self._figures.known_kind(draft.kind)
        if kind is None or draft.idempotency_key:
            return None
        return self._put(self._bounded(self.check_known(draft, kind)))

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
            accepted = await self._write(submissions, self._store.accept_all)
            now = self._clock.now()
            return [self._receipt(*pair, now) for pair in zip(submissions, accepted, strict=True)]

    async def check(self, draft: Draft, task_id: str = "") -> Submission:
        """The submission that a draft makes. Raises Invalid."""
        kind = await self._figures.find_kind(draft.kind)
        return self._bounded(check_draft(draft, kind, task_id or self._new_task_id(), self._clock.now()))

    def check_known(self, draft: Draft, kind: Kind) -> Submission:
        """The same for a kind that is at hand, and without the bound of its group."""
        return check_draft(draft, kind, self._new_task_id(), self._clock.now())

    def _bounded(self, submission: Submission) -> Submission:
        bound = self._figures.bound_of(submission.group)
        return replace(submission, bound=bound) if bound else submission

    def _put(self, submission: Submission) -> asyncio.Future[Receipt]:
        self._figures.enter(submission.group)
        try:
            return (self.lobby or self.batcher).put(submission)
        except MeshError:
            self._leave(submission)
            raise

    def _drop(self, submission: Submission) -> None:
        self._leave(submission)
        if self.lobby is not None:
            self.lobby.leave(submission)

    def _leave(self, submission: Submission) -> None:
        self._figures.leave(submission.group)

    async def _accept(self, submissions: Sequence[Submission]) -> Sequence[Receipt | MeshError]:
        try:
            answers = await self._write(submissions, self._store.accept)
            now = self._clock.now()
            # Counted before they leave, so that each is always counted once at least.
            return [
                answer if isinstance(answer, MeshError) else self._receipt(submission, answer, now)
                for submission, answer in zip(submissions, answers, strict=True)
            ]
        finally:
            for submission in submissions:
                self._drop(submission)

    async def _write(self, submissions: Sequence[Submission], write: _Write[A]) -> Sequence[A]:
        """Writes a batch, and sets going what it may: in an offered slot, or with a pointer on the short way."""
        passing = frozenset() if self._direct is None else self._direct.reserve(submissions)
        taken = self._take_slots(submissions, passing)
        try:
            answers = await write(submissions, passing, {task_id: offer.session_id for task_id, offer in taken.items()})
        except BaseException as error:
            if self._offers is not None:
                in_doubt = isinstance(error, Unavailable) or not isinstance(error, MeshError)
                self._offers.release(taken, in_doubt=in_doubt)
            raise
        if self._offers is not None:
            self._offers.settle(taken, submissions, answers)
        if self._direct is not None:
            self._direct.hand(submissions, answers)
        return answers

    def _take_slots(self, submissions: Sequence[Submission], passing: Collection[str]) -> dict[str, Offer]:
        """Only what may take the short way: nobody's turn is passed over. By its commit a deadline may have passed,
        which a claim looks at.
        """
        if self.lobby is None:
            return {}
        return self.lobby.reserve(
            [s for s in submissions if s.task_id in passing and s.deadline_at is None], submissions
        )

    def _receipt(self, submission: Submission, accepted: Accepted, now: datetime) -> Receipt:
        position, seconds = self._figures.count_accepted(submission, accepted)
        run_at = accepted.task.run_at
        return Receipt(
            accepted=accepted,
            queue_position=position,
            estimated_seconds=seconds,
            estimated_at=(now if run_at is None else max(now, run_at)) + timedelta(seconds=seconds),
        )
