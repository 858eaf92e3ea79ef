"""Schedules: what they submit, and at which times a cron expression in a time zone comes true."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from chassis.errors import Invalid
from services.tasks.model.task import Draft, Submission

# What is older was missed, as in an outage; what is not is only late.
LATE_SECONDS = 60.0
MOST_MISSED = 1000
_MOST_CRON = 100
_LEAST = timedelta(microseconds=1)
# Files beside those of the zones: the machine's own zone, the default of POSIX rules, and "no zone was set".
_NO_TIMEZONES = frozenset({"localtime", "posixrules", "Factory"})
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@cache
def _timezones() -> frozenset[str]:
    """The names of all time zones, the same on every machine. It looks through hundreds of files, so only once."""
    return frozenset(available_timezones() - _NO_TIMEZONES)


class Misfire(IntEnum):
    """What becomes of times that were missed: nothing, one task for all, or a task for each."""

    SKIP = 1
    ONCE = 2
    ALL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a schedule comes true.

    Clock changes are Debian's cron's: a time that is skipped comes right after the gap, one that is repeated comes
    once; expressions with a star for the minute or the hour follow the elapsed time.
    """

    cron: str
    timezone: str

    def check(self, now: datetime) -> None:
        """Raises Invalid (``INVALID_CRON``, ``INVALID_TIMEZONE``) when it means nothing or never comes true."""
        if self.timezone not in _timezones():
            raise Invalid("timezone: Not an IANA time zone", code="INVALID_TIMEZONE", details={"field": "timezone"})
        if len(self.cron) > _MOST_CRON:
            raise Invalid("cron: Too long", code="INVALID_CRON", details={"field": "cron"})
        try:
            never = self.after(now) is None
        except CronSimError as error:
            raise Invalid(f"cron: {error}", code="INVALID_CRON", details={"field": "cron"}) from error
        if never:
            raise Invalid("cron: It never comes true", code="INVALID_CRON", details={"field": "cron"})

    def after(self, moment: datetime) -> datetime | None:
        """The first time after a moment; None when there is none within fifty years."""
        return next(self._from(moment), None)

    def due(self, first: datetime, now: datetime, misfire: Misfire) -> list[datetime]:
        """The times from `first` to now that are to be had, oldest first."""
        late = now - timedelta(seconds=LATE_SECONDS)
        missed: list[datetime] = []
        if first < late and misfire is Misfire.ALL:
            missed = list(islice(takewhile(lambda at: at < late, self._from(first - _LEAST)), MOST_MISSED))
        elif first < late and misfire is Misfire.ONCE:
            missed = [at for at in [self._before(late)] if at is not None and at >= first]
        recent = takewhile(lambda at: at <= now, self._from(max(first, late) - _LEAST))
        return [*missed, *recent]

    def _from(self, moment: datetime) -> Iterator[datetime]:
        times = CronSim(self._expression, moment.astimezone(ZoneInfo(self.timezone)))
        # Within a repeated hour it may begin with a time of the first one, which is past.
        return (at for at in (time.astimezone(UTC) for time in times) if at > moment)

    def _before(self, moment: datetime) -> datetime | None:
        times = CronSim(self._expression, moment.astimezone(ZoneInfo(self.timezone)), reverse=True)
        return next((at for at in (time.astimezone(UTC) for time in times) if at < moment), None)

    @property
    def _expression(self) -> str:
        return _ALIASES.get(self.cron, self.cron)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Something that submits a task at certain times. `task` is what it submits; its owner is the schedule's.

    Attributes:
        next_at: None while it is paused.
        last_at: the last time it submitted, and `last_task_id` what.
    """

    schedule_id: str
    owner_id: str
    name: str
    times: Times
    misfire: Misfire
    paused: bool
    task: Draft
    created_at: datetime
    next_at: datetime | None
    last_at: datetime | None = None
    last_task_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What a schedule that is due submits, by the time it is for, and when it is due again."""

    submissions: tuple[tuple[datetime, Submission], ...]
    next_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a schedule is to be. None leaves it as it is, or is the default of a new one."""

    name: str | None = None
    cron: str | None = None
    timezone: str | None = None
    misfire: int | None = None
    paused: bool | None = None
    task: Draft | None = None
