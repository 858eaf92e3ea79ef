"""Schedules: made, changed and shown for their owners, and fired when their time has come."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from chassis.clock import Clock
from chassis.errors import Exhausted, Invalid, MeshError, NotFound
from chassis.logging import get_logger
from services.tasks.model.cron import Firing, Misfire, Schedule, Times, Wish
from services.tasks.model.task import Draft
from services.tasks.operations import checks
from services.tasks.operations.figures import Figures
from services.tasks.operations.intake import Intake
from services.tasks.ports import ScheduleStore

log = get_logger(__name__)

FIRE_EVERY_SECONDS = 0.25
_BATCH = 20


class Schedules:
    """Another owner's schedule does not exist for the caller; an empty owner sees all."""

    def __init__(
        self,
        store: ScheduleStore,
        intake: Intake,
        figures: Figures,
        *,
        clock: Clock,
        new_schedule_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._intake = intake
        self._figures = figures
        self._clock = clock
        self._new_schedule_id = new_schedule_id

    async def create(self, owner_id: str, wish: Wish) -> Schedule:
        """Raises Invalid (``INVALID_CRON``, ``INVALID_TIMEZONE``, and whatever is wrong with the task)."""
        if wish.task is None:
            raise Invalid("task: It must be given", details={"field": "task"})
        schedule_id = self._new_schedule_id()
        now = self._clock.now()
        fresh = Schedule(
            schedule_id=schedule_id,
            owner_id=owner_id,
            name="",
            times=Times(cron="", timezone="UTC"),
            misfire=Misfire.ONCE,
            paused=False,
            task=_task(wish.task, owner_id, schedule_id),
            created_at=now,
            next_at=None,
        )
        schedule = await self._checked(fresh, replace(wish, cron=wish.cron or ""), now)
        await self._store.save_schedule(schedule)
        return schedule

    async def get(self, schedule_id: str, owner_id: str) -> Schedule:
        """Raises NotFound (``SCHEDULE_NOT_FOUND``)."""
        checks.check_text("owner_id", owner_id)
        known = await self._store.find_schedule(schedule_id, owner_id) if checks.is_schedule_id(schedule_id) else None
        if known is None:
            raise _unknown()
        return known

    async def list_schedules(self, owner_id: str, *, offset: int, limit: int) -> tuple[Sequence[Schedule], int]:
        """A page, newest first, and how many there are in all. A limit of 0 means 20."""
        checks.check_text("owner_id", owner_id)
        checks.check_page(offset, limit)
        return await self._store.list_schedules(owner_id, offset=offset, limit=limit or checks.PAGE)

    async def update(self, schedule_id: str, owner_id: str, wish: Wish) -> Schedule:
        """Changes what is wished. Raises NotFound, and Invalid as `create`."""
        known = await self.get(schedule_id, owner_id)
        now = self._clock.now()
        # Checked against what was read, and applied to what is locked then.
        await self._checked(known, wish, now)
        changed = await self._store.change_schedule(schedule_id, owner_id, lambda found: _wished(found, wish, now))
        if changed is None:
            raise _unknown()
        return changed

    async def delete(self, schedule_id: str, owner_id: str) -> None:
        """Raises NotFound."""
        await self.get(schedule_id, owner_id)
        if not await self._store.delete_schedule(schedule_id, owner_id):
            raise _unknown()

    async def fire(self) -> bool:
        """Submits what is due. True when there may be more."""
        due, answers = await self._store.fire_due(self._plan, _BATCH)
        for answer in answers:
            if isinstance(answer, MeshError):
                log.error("A scheduled task was refused", error=str(answer))
        return due >= _BATCH

    def _plan(self, schedule: Schedule, now: datetime) -> Firing | None:
        kind = self._figures.known_kind(schedule.task.kind)
        if schedule.next_at is None or kind is None:
            # This process has just started and has not read the kinds yet: it stays due.
            return None
        times = schedule.times.due(schedule.next_at, now, schedule.misfire)
        try:
            submissions = [self._intake.check_known(schedule.task, kind) for _ in times]
            with self._figures.admitted([one.group for one in submissions]):
                planned = tuple(zip(times, submissions, strict=True))
        except Exhausted as error:
            log.warning("A schedule waits for its queue", schedule=schedule.schedule_id, error=str(error))
            return None
        except Invalid as error:
            # What was valid once is not any more: said each time, and no reason to stop the others.
            log.error("A schedule cannot submit", schedule=schedule.schedule_id, error=str(error))  # noqa: TRY400 - its text is all there is
            planned = ()
        return Firing(submissions=planned, next_at=schedule.times.after(now))

    async def _checked(self, schedule: Schedule, wish: Wish, now: datetime) -> Schedule:
        changed = _wished(schedule, wish, now)
        checks.check_text("name", changed.name)
        await self._intake.check(changed.task)
        return changed


def _wished(schedule: Schedule, wish: Wish, now: datetime) -> Schedule:
    times = Times(
        cron=schedule.times.cron if wish.cron is None else wish.cron.strip(),
        timezone=schedule.times.timezone if wish.timezone is None else wish.timezone or "UTC",
    )
    times.check(now)
    if wish.misfire is not None and wish.misfire not in {0, *Misfire}:
        raise Invalid("misfire: Unknown", details={"field": "misfire"})
    paused = schedule.paused if wish.paused is None else wish.paused
    moved = schedule.next_at is None or times != schedule.times or paused
    return replace(
        schedule,
        name=schedule.name if wish.name is None else wish.name,
        times=times,
        misfire=schedule.misfire if wish.misfire is None else Misfire(wish.misfire or Misfire.ONCE),
        paused=paused,
        task=schedule.task if wish.task is None else _task(wish.task, schedule.owner_id, schedule.schedule_id),
        next_at=_next(times, now, paused=paused) if moved else schedule.next_at,
    )


def _next(times: Times, now: datetime, *, paused: bool) -> datetime | None:
    return None if paused else times.after(now)


def _task(draft: Draft, owner_id: str, schedule_id: str) -> Draft:
    """What counts of a draft that is submitted again and again."""
    return replace(
        draft,
        owner_id=owner_id,
        schedule_id=schedule_id,
        run_at=None,
        deadline_at=None,
        traceparent="",
        idempotency_key="",
        run_after=(),
        join=0,
        name="",
    )


def _unknown() -> NotFound:
    return NotFound("There is no such schedule", code="SCHEDULE_NOT_FOUND")
