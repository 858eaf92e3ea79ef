"""Everything the operations need from the world, on one page.

Every method is one transaction, committed when it returns. Connection trouble raises Unavailable (``DATABASE_ERROR``).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from chassis.errors import MeshError
from services.tasks.model.cron import Firing, Schedule
from services.tasks.model.figures import Channel, Depth, Rate, Tallies
from services.tasks.model.graph import Standing
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Accepted, Change, Event, Kind, Live, Receipt, Revival, Submission, Task
from services.tasks.model.tries import Share
from services.tasks.model.webhooks import Answer, Delivery, Facts, Happening, Once, Page, Parcel, Settlement, Webhook
from services.tasks.model.work import (
    ClaimBatch,
    Claimed,
    End,
    Held,
    Opening,
    OutcomeBatch,
    Pointer,
    Queue,
    Report,
    Stop,
    WaitingPointer,
    Worker,
)

# What becomes of a locked task; None leaves it as it is.
Decide = Callable[[Live], Change | None]

# The same for one whose time has come, given how the tasks stand that it waits for; None: it waits for none.
Release = Callable[[Live, Standing | None], Change | None]

# What a schedule that is due submits; None: nothing now, it stays due.
Plan = Callable[[Schedule, datetime], Firing | None]
ChangeSchedule = Callable[[Schedule], Schedule]

ChangeWebhook = Callable[[Webhook], Webhook]

# The payload about a task that has ended.
Render = Callable[[Facts], bytes]

# Gives pointers to the broker and says of each whether it was taken.
Publish = Callable[[Sequence[WaitingPointer]], Awaitable[Sequence[bool]]]

# The same for bundles of pointers of one queue, each bundle in one message.
PublishBundles = Callable[[Sequence[Sequence[WaitingPointer]]], Awaitable[Sequence[bool]]]


class TaskStore(Protocol):
    """The callers' side."""

    async def accept(
        self, submissions: Sequence[Submission], direct: Collection[str] = (), offered: Mapping[str, str] | None = None
    ) -> Sequence[Accepted | MeshError]:
        """Task, live row, first event and messages in one commit. Answers in order.

        The pointers of the tasks in `direct` are the caller's to publish where the answer has a `pointer_seq`. Those of
        them that have a session in `offered` are claimed for it at once where the answer says that it holds them.

        Conflict for a reused key (``IDEMPOTENCY_MISMATCH``), Invalid for a prerequisite that does not exist or is
        another owner's (``UNKNOWN_PREREQUISITE``); of those nothing is stored.
        """

    async def accept_all(
        self, submissions: Sequence[Submission], direct: Collection[str] = (), offered: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        """As `accept`, all or none: raises the first error, with its number as `index` in the details."""

    async def keep_receipt(self, owner_id: str, key: str, receipt: Receipt) -> Receipt:
        """Keeps the first answer under an idempotency key, and answers with the one that is kept."""

    async def requeue(self, revival: Revival, decide: Decide) -> Change | None:
        """Locks an ended task and applies the decision. None when it has not ended.

        Raises Conflict (``UNIQUE_KEY_TAKEN``).
        """

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

    async def open_session(self, opening: Opening, lease_seconds: float) -> str:
        """Opens a session, or goes on with the one to resume; makes its kinds known. Answers the session's id."""

    async def beat(self, session_id: str, lease_seconds: float, watcher: str | None = None) -> Sequence[Held] | None:
        """Prolongs the lease and says what the session holds. None: its lease is over, for good.

        Args:
            watcher: the stream that watches the session from now on; None: as before.
        """

    async def shorten(self, session_id: str, lease_seconds: float, watcher: str | None = None) -> None:
        """Leaves the lease so long at most; with a watcher only as long as it is the one that watches."""

    async def read_session_kinds(self, session_id: str) -> Sequence[str] | None:
        """What a session's worker can do; None: its lease is over."""

    async def read_stops(self, session_ids: Sequence[str]) -> Sequence[Stop]:
        """What of these sessions' work its owners want stopped."""

    async def claim(
        self, batches: Sequence[ClaimBatch], grace_seconds: float
    ) -> Sequence[Sequence[Claimed] | MeshError]:
        """Claims for each session what it asked for and may have.

        NotFound (``SESSION_LOST``) where it is over, Conflict (``SESSION_DRAINING``) where it only ends what it holds.

        Args:
            grace_seconds: between an attempt's timeout and the moment the service ends it itself.
        """

    async def complete(self, batches: Sequence[OutcomeBatch]) -> Sequence[Sequence[End | None]]:
        """Ends attempts with their results. None for those that are not held any more, and for those that others wait
        for: these are for `settle`.
        """

    async def settle(
        self, batches: Sequence[OutcomeBatch], decide: "DecideOutcome", *, reported: bool = True
    ) -> Sequence[Sequence[Change | None]]:
        """Locks the attempts that are still held, applies the decisions, and answers None for those that are not.

        Args:
            reported: the sessions say how the attempts ended, and may say it again.
        """

    async def find_reported(self, session_id: str, pointers: Sequence[Pointer]) -> Collection[Pointer]:
        """Those of which this session has said how they ended, unless another attempt of the task has begun since."""

    async def progress(self, session_id: str, pointer: Pointer, report: Report) -> bool:
        """Records progress, an event at most once a second. False when the attempt is not held."""

    async def drain_session(self, session_id: str) -> bool:
        """Stops claims. False when the lease is over."""

    async def close_session(self, session_id: str, decide: Decide) -> Sequence[Change]:
        """Ends the lease and decides on all it held."""


# What becomes of a locked attempt, given the number of its batch and of the outcome in it.
DecideOutcome = Callable[[int, int, Live], Change]


class UpkeepStore(Protocol):
    """What goes on in the background. Safe in several processes at once; each call does a bounded amount."""

    async def sweep_lost(self, decide: Decide, lease_seconds: float, limit: int) -> Sequence[Change]:
        """Decides on attempts whose session is over. After a time in which nobody could ask, all that were alive before
        it have another lease.
        """

    async def release_due(self, release: Release, expire: Decide, limit: int) -> tuple[int, Sequence[Change]]:
        """Takes timers that are due: `release` for tasks that wait, `expire` for deadlines. Also how many timers."""

    async def sweep_overdue(
        self, time_out: Decide, stop: Decide, *, grace_seconds: float, limit: int
    ) -> Sequence[Change]:
        """Decides on attempts past their timeout, and on those asked to stop longer ago than the grace."""

    async def point_again(self, queues: Sequence[tuple[str, Priority]], older_seconds: float, limit: int) -> int:
        """New pointers for tasks that have been queued so long in these queues (group, priority), unless one waits to
        be published. Answers how many.
        """

    async def prune(self) -> int:
        """Forgets expired idempotency keys and sessions that nothing points at. Answers how many rows went."""

    async def keep_days(self, now: datetime, *, ahead: int, retained: int) -> Sequence[str]:
        """Makes the parts of history of so many days ahead, and drops those older than so many days.

        A day in which something is alive stays until that has ended. Answers what was dropped.
        """

    async def read_kinds(self) -> Sequence[Kind]: ...
    async def read_depths(self) -> tuple[Sequence[Depth], Sequence[Channel]]:
        """Live tasks by queue, and the channels with their live tasks and what was measured of them."""

    async def read_workers(self) -> Sequence[Worker]: ...

    async def add_tallies(self, instance: str, tallies: Tallies) -> None:
        """Adds what this process saw end since the last call."""

    async def fold_tallies(self) -> None:
        """Folds seconds that the rates need no longer into the totals."""

    async def read_rates(self) -> Sequence[Rate]:
        """Figures of all processes by group, over the last minute and in all."""


class ScheduleStore(Protocol):
    """Schedules. An empty owner is any owner."""

    async def save_schedule(self, schedule: Schedule) -> None: ...
    async def find_schedule(self, schedule_id: str, owner_id: str) -> Schedule | None: ...

    async def change_schedule(self, schedule_id: str, owner_id: str, change: ChangeSchedule) -> Schedule | None:
        """Locks a schedule and saves what `change` makes of it. None when there is none."""

    async def delete_schedule(self, schedule_id: str, owner_id: str) -> bool: ...

    async def list_schedules(self, owner_id: str, *, offset: int, limit: int) -> tuple[Sequence[Schedule], int]:
        """A page, newest first, and how many there are in all."""

    async def fire_due(self, plan: Plan, limit: int) -> tuple[int, Sequence[Accepted | MeshError]]:
        """Submits what is planned for schedules that are due, at most one task for a schedule and a time.

        Answers how many were due, and what became of the submissions.
        """


class PointerStore(Protocol):
    """Pointers that are not with the broker yet."""

    async def feed(self, queues: Sequence[Queue], publish: Publish) -> Sequence[WaitingPointer] | None:
        """Publishes what these queues may take, each owner in turn, and forgets what was taken; answers that.

        None: another process is at it. Raises what `publish` raises; then nothing is forgotten.
        """

    async def settle_direct(self, counts: Mapping[int, int], refused: Sequence[WaitingPointer]) -> None:
        """Of pointers on the short way: forgets those that were taken, and leaves to `feed` those that were refused.

        Args:
            counts: of each row how many of its pointers are settled. Unless all of them are it is as if none were, and
                they are recalled later.
        """

    async def recall_direct(self, older_seconds: float) -> int:
        """Leaves to `feed` pointers that have been on the short way for so long. Answers how many."""

    async def grant_places(self) -> bool:
        """Lets pointers of kinds with a bound go on, as many as have a place. True while some wait for one."""


class WebhookStore(Protocol):
    """The owners' webhooks. An empty owner is any owner."""

    async def add_webhook(self, webhook: Webhook, most: int, once: Once | None) -> Webhook:
        """The webhook, or the one that was made under its idempotency key before.

        Raises Exhausted (``TOO_MANY_WEBHOOKS``) when its owner has so many, Conflict (``IDEMPOTENCY_MISMATCH``).
        """

    async def find_webhook(self, webhook_id: str, owner_id: str) -> Webhook | None: ...
    async def list_webhooks(self, owner_id: str, limit: int) -> Sequence[Webhook]:
        """Newest first."""

    async def change_webhook(self, webhook_id: str, owner_id: str, change: ChangeWebhook) -> Webhook | None:
        """Locks a webhook and saves what `change` makes of it. None when there is none."""

    async def delete_webhook(self, webhook_id: str, owner_id: str) -> bool: ...


class DeliveryStore(Protocol):
    """What webhooks are told, beside what the ends of tasks write down in their own statement."""

    async def tell(self, happenings: Sequence[Happening]) -> None:
        """A delivery for each webhook of the owner that wants it; none where its event id has been before."""

    async def tell_one(self, webhook_id: str, happening: Happening) -> Delivery:
        """A delivery to this webhook, whatever it wants."""

    async def take(
        self, limit: int, share: Share, under_way: Mapping[str, int], *, lease_seconds: float, render: Render
    ) -> tuple[int, Sequence[Parcel]]:
        """Takes deliveries that are due, of each webhook the oldest first, in turns of the owners, and no more than the
        `share` less those `under_way`, by webhook. Nobody else takes them before the lease is over. Also how many were
        looked at.
        """

    async def settle_delivery(self, parcel: Parcel, settlement: Settlement, failing_seconds: float) -> bool:
        """Writes what became of a try, unless somebody else has taken the delivery since. True when it was the end of
        the webhook: it is gone, or every try failed for so long.
        """

    async def give_up(self, webhook_id: str, words: str, limit: int) -> int:
        """Ends what waits for a webhook, oldest first, with these words in the log. Answers how many."""

    async def give_back(self, parcels: Sequence[Parcel]) -> None:
        """Leaves to others what was taken and will not be tried."""

    async def list_deliveries(self, page: Page, render: Render) -> Sequence[Delivery]: ...

    async def replay(
        self, webhook_id: str, delivery_id: str | None, failed_since: datetime | None, limit: int
    ) -> int | None:
        """Makes one due, or all that failed of what was written since. Answers how many; None: there is no such one."""

    async def count_waiting(self) -> int:
        """Deliveries that wait, all webhooks together."""

    async def prune_deliveries(self, before: datetime, most_waiting: int, limit: int) -> int:
        """Forgets what was written before and has ended, and what is of deleted webhooks; gives up the oldest of what
        is too much for one webhook. About `limit` rows of each; answers how many it touched.
        """


class Post(Protocol):
    """The way to the addresses of webhooks."""

    async def check(self, url: str) -> None:
        """Raises Invalid for what is no address of a webhook (``WEBHOOK_URL``), or one inside (``WEBHOOK_ADDRESS``)."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One try. Whatever goes wrong is in the answer."""


class Backlog(Protocol):
    """How many messages wait to be published, all processes together, as far as this one knows."""

    def __call__(self) -> int: ...


class WorkQueues(Protocol):
    """The broker's queues, one a group and priority."""

    async def declare(self, groups: Sequence[str]) -> None:
        """Makes the queues of these groups exist, now or as soon as the broker is back."""

    async def find_empty(self, queues: Sequence[tuple[str, Priority]]) -> Sequence[tuple[str, Priority]]:
        """Which of them hold nothing, or do not exist. Raises Unavailable when the broker is away."""

    async def count_ready(self, group: str, priority: Priority) -> int:
        """Messages that no worker has yet. Raises Unavailable when the broker is away."""
