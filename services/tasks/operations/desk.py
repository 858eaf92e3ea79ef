"""The worker protocol: sessions with leases; claims, outcomes, progress and hand-backs fenced by attempt and session.

Owns the limits of what a worker may say; what an outcome makes of a task is the rules' business.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from chassis.errors import Exhausted, Invalid, MeshError, NotFound
from services.tasks.model import rules
from services.tasks.model.task import Change, Live, TaskError
from services.tasks.model.work import (
    TIMEOUT_GRACE_SECONDS,
    ClaimBatch,
    Claimed,
    End,
    Failure,
    Held,
    Opening,
    Outcome,
    OutcomeBatch,
    Pointer,
    Report,
)
from services.tasks.operations import checks
from services.tasks.operations.batches import Batcher
from services.tasks.operations.figures import Figures
from services.tasks.ports import WorkQueues, WorkStore

# Three beats. What a vanished host held shall start anew within twelve seconds, with time to find it and to claim it.
LEASE_SECONDS = 9
HEARTBEAT_SECONDS = 3
MOST_PER_CALL = 1000
# Claims stand between acceptance and start; outcomes only between the work and the news of it.
_CLAIM_PACE_SECONDS = 0.001
_FEW_POINTERS = 16
_OUTCOME_PACE_SECONDS = 0.008
_ROW_BYTES = 16 * 1024
_MOST_SLOTS = 10_000
_MOST_KINDS = 200
MOST_KNOWN_KINDS = 1000

_SESSION_ID = re.compile(r"ses_[0-9A-HJKMNP-TV-Z]{26}\Z")

Settled = Sequence[Change | None]


class Desk:
    """Where workers are served. The batchers' `run` have to run for claims and outcomes to be written."""

    def __init__(
        self, store: WorkStore, figures: Figures, queues: WorkQueues, new_session_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._figures = figures
        self._queues = queues
        self._new_session_id = new_session_id
        # A claim of a few does not wait for those of hundreds: it is what urgent tasks come with.
        self.claims, self.few_claims = (
            Batcher[ClaimBatch, Sequence[Claimed]](
                partial(store.claim, grace_seconds=TIMEOUT_GRACE_SECONDS),
                rows=lambda batch: max(len(batch.pointers), 1),
                pace_seconds=_CLAIM_PACE_SECONDS,
            )
            for _ in range(2)
        )
        self.results: Batcher[OutcomeBatch, Sequence[End | None]] = Batcher(
            self._complete, rows=_weight, pace_seconds=_OUTCOME_PACE_SECONDS
        )
        self.outcomes: Batcher[OutcomeBatch, Settled] = Batcher(
            self._settle, rows=_weight, pace_seconds=_OUTCOME_PACE_SECONDS
        )

    @property
    def batchers(self) -> dict[str, Batcher[Any, Any]]:
        """What has to run, by name."""
        return {
            "claims": self.claims,
            "few-claims": self.few_claims,
            "results": self.results,
            "outcomes": self.outcomes,
        }

    async def open_session(self, opening: Opening) -> str:
        """Opens a session under a new id, or goes on with the one to resume; makes its kinds known.

        Raises Invalid for what cannot be announced, and Exhausted (``TOO_MANY_KINDS``) for kinds beyond a thousand.
        """
        checks.check_text("worker_name", opening.worker_name, required=True)
        checks.check_text("host", opening.host)
        if not 0 < opening.slots <= _MOST_SLOTS:
            raise Invalid(f"slots: Between 1 and {_MOST_SLOTS}", details={"field": "slots"})
        if not 0 < len(opening.kinds) <= _MOST_KINDS or len({k.kind for k in opening.kinds}) < len(opening.kinds):
            raise Invalid(f"kinds: Between 1 and {_MOST_KINDS} different ones", details={"field": "kinds"})
        for kind in opening.kinds:
            checks.check_kind(kind)
        fresh = sum(self._figures.known_kind(kind.kind) is None for kind in opening.kinds)
        if fresh and len(self._figures.known_kinds) + fresh > MOST_KNOWN_KINDS:
            # Each costs four queues and a row, and anybody who may connect a worker can name new ones for ever.
            raise Exhausted("Too many kinds of tasks are known", code="TOO_MANY_KINDS", retry_after_seconds=60.0)
        resumable = opening.resume_session_id if _SESSION_ID.match(opening.resume_session_id) else ""
        opened = replace(opening, session_id=self._new_session_id(), resume_session_id=resumable)
        session_id = await self._store.open_session(opened, LEASE_SECONDS)
        await self._figures.read_kinds()
        await self._queues.declare(self._figures.groups)
        return session_id

    async def beat(self, session_id: str) -> Sequence[Held]:
        """Prolongs the lease and says what the session holds. Raises NotFound (``SESSION_LOST``)."""
        held = await self._store.beat(check_session(session_id), LEASE_SECONDS)
        if held is None:
            raise lost()
        return held

    async def claim(self, batch: ClaimBatch) -> Sequence[Claimed]:
        """Claims what the pointers point at; what is missing in the answer is a duplicate or stale.

        Raises NotFound (``SESSION_LOST``), and Conflict (``SESSION_DRAINING``): then the pointers are to be returned.
        """
        check_session(batch.session_id)
        _check_count(batch.pointers)
        return await (self.claims if len(batch.pointers) > _FEW_POINTERS else self.few_claims).put(batch)

    async def finish(self, batch: OutcomeBatch) -> list[Pointer]:
        """Ends attempts; answers those that are not the session's any more and had no effect.

        One that says again what has been committed is none of these: its answer was lost, and the first word counts.
        """
        _check_count(batch.outcomes)
        clean = OutcomeBatch(session_id=batch.session_id, outcomes=tuple(map(_clean, batch.outcomes)))
        if not clean.outcomes:
            return []
        results = replace(clean, outcomes=tuple(o for o in clean.outcomes if o.result is not None))
        ends = iter(await self.results.put(results) if results.outcomes else ())
        # What was not ended so is not held any more, or others wait for it.
        left = replace(clean, outcomes=tuple(o for o in clean.outcomes if o.result is None or next(ends) is None))
        if not left.outcomes or not (unsettled := _unsettled(left.outcomes, await self.outcomes.put(left))):
            return []
        reported = await self._store.find_reported(clean.session_id, unsettled)
        return [pointer for pointer in unsettled if pointer not in reported]

    async def progress(
        self, session_id: str, pointer: Pointer, progress: float, *, message: str = "", partial: bytes = b""
    ) -> bool:
        """Records progress between 0 and 1, and a partial result (JSON; empty: none).

        False when the attempt is not the session's any more.
        """
        if not 0.0 <= progress <= 1.0:
            raise Invalid("progress: Between 0 and 1", details={"field": "progress"})
        data: dict[str, object] = {"progress": progress}
        if message:
            data["message"] = checks.clean_text(message)
        if partial:
            data["partial"] = checks.check_document("partial", partial, checks.MOST_PARTIAL_BYTES)
        report = Report(progress=progress, data=orjson.dumps(data), partial=partial)
        return await self._store.progress(session_id, pointer, report)

    async def hand_back(self, session_id: str, pointers: Sequence[Pointer]) -> None:
        """Queues attempts again that the session holds and will not end; those that are stale are left alone."""
        _check_count(pointers)
        outcomes = tuple(Outcome(task_id=p.task_id, attempt=p.attempt) for p in pointers)
        if outcomes:
            batch = OutcomeBatch(session_id=session_id, outcomes=outcomes)
            await self._store.settle([batch], lambda _batch, _index, live: rules.give_back(live), reported=False)

    async def close_session(self, session_id: str, *, drain: bool) -> None:
        """Stops claims (drain), or ends the session and queues its work again. Safe to repeat."""
        check_session(session_id)
        if not drain:
            self._figures.count_changes(await self._store.close_session(session_id, rules.give_back))
        elif not await self._store.drain_session(session_id):
            raise lost()

    async def _complete(self, batches: Sequence[OutcomeBatch]) -> Sequence[Sequence[End | None] | MeshError]:
        answers = await self._store.complete(batches)
        self._figures.count_ends([end for ends in answers for end in ends if end is not None])
        return answers

    async def _settle(self, batches: Sequence[OutcomeBatch]) -> Sequence[Settled | MeshError]:
        def decide(number: int, index: int, live: Live) -> Change:
            return self._decide(batches[number].outcomes[index], live)

        answers = await self._store.settle(batches, decide)
        for changes in answers:
            self._figures.count_changes([change for change in changes if change is not None])
        return answers

    def _decide(self, outcome: Outcome, live: Live) -> Change:
        if outcome.result is not None:
            return rules.complete(live, outcome.result)
        if outcome.failure is not None:
            policy = self._figures.retry_of(live.kind)
            return rules.fail(live, outcome.failure, policy, random.random())  # noqa: S311 - not a secret
        # It says it was asked to stop; if nobody asked, the task is not done, so somebody else does it.
        return rules.give_back(live)


def _weight(batch: OutcomeBatch) -> int:
    """Large results make small batches: what one commit tells is read again in one piece."""
    return sum(1 + len(outcome.result or b"") // _ROW_BYTES for outcome in batch.outcomes)


def _clean(outcome: Outcome) -> Outcome:
    """An outcome that can be kept. A result that cannot is the handler's failure, and another attempt repeats it."""
    if outcome.result is not None:
        try:
            checks.check_document("result", outcome.result, checks.MOST_RESULT_BYTES)
        except Invalid as error:
            failure = Failure(error=TaskError(code="INVALID_RESULT", message=error.message), retryable=False)
            return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, failure=failure)
    elif outcome.failure is not None:
        failure = Failure(
            error=checks.clean_error(outcome.failure.error),
            retryable=outcome.failure.retryable,
            retry_after_seconds=outcome.failure.retry_after_seconds,
        )
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, failure=failure)
    return outcome


def _unsettled(outcomes: Sequence[Outcome], changes: Settled) -> list[Pointer]:
    return [
        Pointer(task_id=outcome.task_id, attempt=outcome.attempt)
        for outcome, change in zip(outcomes, changes, strict=True)
        if change is None
    ]


def _check_count(items: Sequence[object]) -> None:
    if len(items) > MOST_PER_CALL:
        raise Invalid(f"At most {MOST_PER_CALL} in one call", code="TOO_MANY")


def check_session(session_id: str) -> str:
    """A session's id. Raises NotFound (``SESSION_LOST``) for what can be none."""
    if not _SESSION_ID.match(session_id):
        raise lost()
    return session_id


def lost() -> NotFound:
    """What is said of a session that is over, or never was."""
    return NotFound("The session is over", code="SESSION_LOST")
