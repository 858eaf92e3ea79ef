"""What a try makes of its delivery: the schedule of tries, and what an endpoint may say about it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from services.tasks.model.webhooks import Answer, DeliveryState, Parcel, Settlement, Try

# As Standard Webhooks advises: at once, then ever later, for three days in all.
SCHEDULE_SECONDS = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
MOST_TRIES_LOGGED = 20
GONE, TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE = 410, 429, 503
_OK, _NO_LONGER_OK = 200, 300
# A wait is that share shorter or longer, so that what failed together does not come back together.
_JITTER = 0.1
# No date of HTTP is longer.
_MOST_DATE = 64
_LOST = "The process that tried was not heard of again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long deliveries are tried.

    Attributes:
        schedule_seconds: the wait before each try, the first included.
        most_retry_after_seconds: an endpoint may not ask for a longer wait.
    """

    schedule_seconds: tuple[float, ...] = SCHEDULE_SECONDS
    most_retry_after_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many tries of a process may be under way at a time to one webhook, and to all of one owner's."""

    per_webhook: int
    per_owner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the tries of one process keep to; see the settings."""

    policy: Policy
    timeout_seconds: float
    failing_seconds: float
    most_under_way: int
    share: Share
    most_waiting: int
    retained_days: int


def is_success(status: int) -> bool:
    """Only 2xx: a redirect is a failure."""
    return _OK <= status < _NO_LONGER_OK


def settle(parcel: Parcel, one: Try, answer: Answer, policy: Policy, chance: float) -> Settlement:
    """What becomes of the delivery after this try.

    Args:
        chance: a random number in [0, 1).
    """
    lost = (replace(one, status=0, duration_ms=0, error=_LOST),) if parcel.lost else ()
    tries = (*parcel.tries, *lost, one)[-MOST_TRIES_LOGGED:]
    if is_success(answer.status):
        return Settlement(state=DeliveryState.DELIVERED, failures=0, delay_seconds=0, tries=tries, gone=False)
    failures = parcel.failures + 1
    if answer.status == GONE or failures >= len(policy.schedule_seconds):
        gone = answer.status == GONE
        return Settlement(state=DeliveryState.FAILED, failures=failures, delay_seconds=0, tries=tries, gone=gone)
    planned = policy.schedule_seconds[failures] * (1 + _JITTER * (2 * chance - 1))
    asked = min(answer.retry_after_seconds or 0.0, policy.most_retry_after_seconds)
    return Settlement(
        state=DeliveryState.WAITING, failures=failures, delay_seconds=max(planned, asked), tries=tries, gone=False
    )


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date of HTTP (RFC 9110). None for what is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        # More digits than any wait has would be a number without end.
        return float(value[:10])
    try:
        at = parsedate_to_datetime(value[:_MOST_DATE])
        return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        # All of these come from what a receiver may write there: numbers without end, years that no clock has.
        return None
