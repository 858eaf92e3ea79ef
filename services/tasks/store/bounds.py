"""How many tasks may wait in a group, counted exactly where it matters: close to the bound, all processes together."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table

from collections.abc import Sequence

from chassis.database import DriverConnection
from chassis.errors import Exhausted, MeshError
from services.tasks.model.states import State
from services.tasks.model.task import Submission

# Whoever writes into a group that is nearly full does it alone, until its commit; in one order for all.
_LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended(g, 0)) FROM (SELECT unnest($1::text[]) AS g ORDER BY 1) AS groups
"""
_COUNT = f"""
SELECT work_group, count(*) AS waiting FROM tasks.task_live
WHERE work_group = ANY($1::text[]) AND state IN ({State.SCHEDULED:d}, {State.QUEUED:d}) GROUP BY work_group
"""


async def refuse_beyond(pg: DriverConnection, submissions: Sequence[Submission]) -> dict[str, MeshError]:
    """By task, that its queue is full; of those that come together the first have the places that are left."""
    groups = sorted({s.group for s in submissions if s.bound})
    if not groups:
        return {}
    await pg.fetch(_LOCK, groups)
    waiting = {row["work_group"]: row["waiting"] for row in await pg.fetch(_COUNT, groups)}
    refused: dict[str, MeshError] = {}
    for s in submissions:
        if s.bound and waiting.get(s.group, 0) >= s.bound:
            refused[s.task_id] = Exhausted("The queue is full", code="QUEUE_FULL", retry_after_seconds=1.0)
        else:
            waiting[s.group] = waiting.get(s.group, 0) + 1
    return refused
