"""The worker's half of `mesh.tasks.v1.WorkerService`, for every process that runs tasks.

It knows sessions, pointers, claims, fencing and draining; it refuses to know what any kind of task does, and it keeps
nothing at rest: the tasks service owns the truth, and whatever dies with this process is given to another.
"""

from worker.feed import RabbitFeed
from worker.handler import Assignment, Kind, Reject, Retry
from worker.runner import Runner

__all__ = ["Assignment", "Kind", "RabbitFeed", "Reject", "Retry", "Runner"]
