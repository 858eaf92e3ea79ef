"""Everything the operations need from the world, on one page.

Every method is one transaction, committed when it returns. Connection trouble raises Unavailable (``DATABASE_ERROR``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from chassis.errors import MeshError
from services.tasks.model.figures import Depth, Rate, Tally
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Accepted, Change, Event, Kind, Live, Submission, Task
from services.tasks.model.work import ClaimBatch, Claimed, Held, Opening, OutcomeBatch, Worker

# What becomes of a locked task; None leaves it as it is.
Decide = Callable[[Live], Change | None]


class TaskStore(Protocol):
    """The callers' side."""

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | MeshError]:
        """Task, live row, first event and messages in one commit. Answers in order; Conflict for a reused key."""

    async def cancel(self, task_id: str, owner_id: str, decide: Decide) -> Change | None:
        """Locks a live task and applies the decision. None when it is not live or another owner's (empty: any)."""

    async def find(self, task_id: str, owner_id: str) -> Task | None:
        """A task with payload and result; None when there is none or it is another owner's (empty: any)."""

    async def list_tasks(
        self, owner_id: str, states: Sequence[State], kinds: Sequence[str], *, offset: int, limit: int
    ) -> tuple[Sequence[Task], int]:
        """A page, newest first, without payload and result, and how many there are in all."""

    async def list_events(self, task_id: str, since: int, limit: int) -> Sequence[Event]:
        """Events after `since`, in order."""


class WorkStore(Protocol):
    """The workers' side."""

    async def open_session(self, opening: Opening, lease_seconds: float) -> None:
        """Opens a session and makes its kinds known."""

    async def beat(self, session_id: str, lease_seconds: float) -> Sequence[Held] | None:
        """Prolongs the lease and says what the session holds. None: its lease is over, for good."""

    async def claim(
        self, batches: Sequence[ClaimBatch], grace_seconds: float
    ) -> Sequence[Sequence[Claimed] | MeshError]:
        """Claims for each session what it asked for and may have.

        NotFound (``SESSION_LOST``) where it is over, Conflict (``SESSION_DRAINING``) where it only ends what it holds.

        Args:
            grace_seconds: between an attempt's timeout and the moment the service ends it itself.
        """

    async def settle(
        self, batches: Sequence[OutcomeBatch], decide: "DecideOutcome"
    ) -> Sequence[Sequence[Change | None]]:
        """Locks the attempts that are still held, applies the decisions, and answers None for those that are not."""

    async def progress(self, session_id: str, task_id: str, attempt: int, progress: float, data: bytes) -> bool:
        """Records progress, an event at most once a second. False when the attempt is not held."""

    async def drain_session(self, session_id: str) -> bool:
        """Stops claims. False when the lease is over."""

    async def close_session(self, session_id: str, decide: Decide) -> Sequence[Change]:
        """Ends the lease and decides on all it held."""


# What becomes of a locked attempt, given the number of its batch and of the outcome in it.
DecideOutcome = Callable[[int, int, Live], Change]


class UpkeepStore(Protocol):
    """What goes on in the background. Safe in several processes at once; each call does a bounded amount."""

    async def sweep_lost(self, decide: Decide, limit: int) -> Sequence[Change]:
        """Decides on attempts whose session is over."""

    async def release_due(self, release: Decide, expire: Decide, limit: int) -> tuple[int, Sequence[Change]]:
        """Takes timers that are due: `release` for tasks that wait, `expire` for deadlines. Also how many timers."""

    async def sweep_overdue(
        self, time_out: Decide, stop: Decide, *, grace_seconds: float, limit: int
    ) -> Sequence[Change]:
        """Decides on attempts past their timeout, and on those asked to stop longer ago than the grace."""

    async def point_again(self, queues: Sequence[tuple[str, Priority]], older_seconds: float, limit: int) -> int:
        """New pointers for tasks that have been queued so long in these queues (group, priority). Answers how many."""

    async def prune(self) -> int:
        """Forgets expired idempotency keys and sessions that nothing points at. Answers how many rows went."""

    async def read_kinds(self) -> Sequence[Kind]: ...
    async def read_depths(self) -> Sequence[Depth]: ...
    async def read_workers(self) -> Sequence[Worker]: ...

    async def add_tallies(self, instance: str, tallies: Sequence[Tally], sessions: Mapping[str, int]) -> None:
        """Adds what this process saw end since the last call, by group and by session."""

    async def fold_tallies(self) -> None:
        """Folds seconds that the rates need no longer into the totals."""

    async def read_rates(self) -> Sequence[Rate]:
        """Figures of all processes by group, over the last minute and in all."""


class Backlog(Protocol):
    """How many messages wait to be published, all processes together, as far as this one knows."""

    def __call__(self) -> int: ...


class WorkQueues(Protocol):
    """The broker's queues, one a group and priority."""

    async def declare(self, groups: Sequence[str]) -> None:
        """Makes the queues of these groups exist, now or as soon as the broker is back."""

    async def find_empty(self, queues: Sequence[tuple[str, Priority]]) -> Sequence[tuple[str, Priority]]:
        """Which of them hold nothing, or do not exist. Raises Unavailable when the broker is away."""
