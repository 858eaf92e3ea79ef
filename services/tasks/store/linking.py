"""What ties tasks to each other: unique keys, and the tasks that a task runs after."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from chassis.database import DriverConnection
from chassis.errors import Invalid, MeshError
from services.tasks.model.states import Due
from services.tasks.model.task import Submission
from services.tasks.store.outgoing import Transaction

# By the key's own number and in one order for all. Taken before anybody looks, so that of two that come together the
# second sees the first one's row; the unique index stands behind it.
_LOCK_DIGESTS = "SELECT pg_advisory_xact_lock(n) FROM (SELECT unnest($1::bigint[]) AS n ORDER BY n) AS locks"
_READ_DIGESTS = "SELECT unique_digest, task_id FROM tasks.task_live WHERE unique_digest = ANY($1::bytea[])"

# Whoever ends an awaited task locks its live row and looks for those who wait with a statement of its own: it ended
# before this, or it finds our rows. Once in a transaction and in one order, or two of them wait for each other.
_AWAIT_PREREQUISITES = """
WITH c AS (
  SELECT task_id FROM tasks.task_live WHERE task_id = ANY($1::text[]) ORDER BY task_id FOR NO KEY UPDATE
)
UPDATE tasks.task_live l SET awaited = true FROM c
WHERE l.task_id = c.task_id AND l.task_id = ANY($1::text[]) AND NOT l.awaited
"""
_READ_OWNERS = "SELECT task_id, owner_id FROM tasks.task WHERE task_id = ANY($1::text[])"

_LINK = """
WITH i AS (SELECT * FROM unnest($1::text[], $2::text[]) AS i(after_id, task_id)), p AS (
  INSERT INTO tasks.prerequisite (after_id, task_id) SELECT after_id, task_id FROM i ON CONFLICT DO NOTHING
)
INSERT INTO tasks.schedule (due_at, task_id, purpose, attempt) SELECT DISTINCT now(), task_id, 3, 0 FROM i
"""


async def refuse_unknown(pg: DriverConnection, submissions: Sequence[Submission]) -> dict[str, MeshError]:
    """By task, why it cannot run after what it names: a task that is not there, or another owner's."""
    wanted = {after_id for s in submissions for after_id in s.run_after}
    if not wanted:
        return {}
    owners = {row["task_id"]: row["owner_id"] for row in await pg.fetch(_READ_OWNERS, sorted(wanted))}
    owners |= {s.task_id: s.owner_id for s in submissions}
    refused: dict[str, MeshError] = {}
    for s in submissions:
        unknown = [after_id for after_id in s.run_after if owners.get(after_id) != s.owner_id]
        if unknown:
            refused[s.task_id] = Invalid(
                f"run_after: There is no task {unknown[0]}",
                code="UNKNOWN_PREREQUISITE",
                details={"field": "run_after", "task_id": unknown[0]},
            )
    return refused


async def find_twins(pg: DriverConnection, submissions: Sequence[Submission]) -> dict[str, str]:
    """By task, the live one that has its unique key already; of equal ones in a batch the first is the others' twin."""
    digests = {s.task_id: digest for s in submissions if (digest := s.unique_digest) is not None}
    if not digests:
        return {}
    holders = await find_holders(pg, list(set(digests.values())))
    found = {task_id: holders.setdefault(digest, task_id) for task_id, digest in digests.items()}
    return {task_id: holder for task_id, holder in found.items() if holder != task_id}


async def find_holders(pg: DriverConnection, digests: Sequence[bytes]) -> dict[bytes, str]:
    """The live tasks of these keys. Until the transaction ends nobody else makes one."""
    await pg.fetch(_LOCK_DIGESTS, [int.from_bytes(value[:8], "big", signed=True) for value in digests])
    return {row["unique_digest"]: row["task_id"] for row in await pg.fetch(_READ_DIGESTS, list(digests))}


def renamed(submission: Submission, others: Mapping[str, str]) -> Submission:
    """The submission running after the tasks that those it names turned out to be."""
    if not submission.run_after:
        return submission
    return replace(submission, run_after=tuple(others.get(after_id, after_id) for after_id in submission.run_after))


async def link(transaction: Transaction, submissions: Sequence[Submission]) -> None:
    """Writes who waits for whom, and has each looked at once: what it waits for may have ended already."""
    pairs = [(after_id, s.task_id) for s in submissions for after_id in s.run_after]
    if pairs:
        await transaction.pg.execute(_AWAIT_PREREQUISITES, sorted({after_id for after_id, _ in pairs}))
        await transaction.pg.execute(_LINK, [after for after, _ in pairs], [task for _, task in pairs])
        transaction.due.add(Due.TIMERS)
