"""What a try makes of its delivery: the schedule, what endpoints may say, and the log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from services.tasks.model.tries import MOST_TRIES_LOGGED, SCHEDULE_SECONDS, Policy, parse_retry_after, settle
from services.tasks.model.webhooks import Answer, DeliveryState, Parcel, Settlement, Try

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARCEL = Parcel(
    delivery_id="dlv_1",
    webhook_id="hook_1",
    number=1,
    url="https://example.com",
    secrets=("s",),
    event_id="evt_1",
    type="task.completed",
    payload=b"{}",
    traceparent="",
    failures=0,
    tries=(),
    lost=False,
)


def tried(answer: Answer, parcel: Parcel = PARCEL, chance: float = 0.5) -> Settlement:
    one = Try(at=NOW, status=answer.status, duration_ms=1, error=answer.error)
    return settle(parcel, one, answer, Policy(), chance)


def test_the_schedule_is_the_standards() -> None:
    """Ten tries in three days, each wait longer than the one before; the last failure is the end."""
    assert SCHEDULE_SECONDS == (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    parcel, waits = PARCEL, []
    while (settlement := tried(Answer(status=500, error="e"), parcel)).state is DeliveryState.WAITING:
        waits.append(settlement.delay_seconds)
        parcel = replace(parcel, failures=settlement.failures, tries=settlement.tries)
    assert tuple(waits) == SCHEDULE_SECONDS[1:]
    assert all(earlier < later for earlier, later in pairwise(waits))
    assert (settlement.state, settlement.failures, settlement.gone) == (DeliveryState.FAILED, 10, False)
    assert len(settlement.tries) == 10


def test_waits_are_jittered_by_a_tenth() -> None:
    """Between nine and eleven tenths of what is planned."""
    waits = [tried(Answer(status=500), chance=chance).delay_seconds for chance in (0.0, 0.5, 1.0)]
    assert waits == pytest.approx([4.5, 5.0, 5.5])


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_only_2xx_is_success(status: int) -> None:
    """Whatever failed before."""
    settlement = tried(Answer(status=status), replace(PARCEL, failures=9))
    assert (settlement.state, settlement.gone) == (DeliveryState.DELIVERED, False)


@pytest.mark.parametrize("status", [0, 100, 101, 199, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 503, 599, 999])
def test_everything_else_is_a_failure(status: int) -> None:
    """Redirects too; no answer is 0."""
    assert tried(Answer(status=status, error="e")).state is DeliveryState.WAITING


def test_gone_is_the_end_at_once() -> None:
    """410 leaves no tries."""
    settlement = tried(Answer(status=410, error="e"))
    assert (settlement.state, settlement.gone) == (DeliveryState.FAILED, True)


def test_an_endpoint_may_ask_for_a_longer_wait_and_no_shorter_one() -> None:
    """Bounded by a day."""
    for asked, wait in ((None, 5.0), (0.0, 5.0), (4.0, 5.0), (60.0, 60.0), (1e9, 86_400.0)):
        assert tried(Answer(status=429, retry_after_seconds=asked)).delay_seconds == wait


def test_the_log_keeps_the_last_tries_and_tells_of_lost_ones() -> None:
    """A try whose process was not heard of again has a line too."""
    parcel = replace(
        PARCEL, tries=tuple(Try(at=NOW, status=500, duration_ms=n, error="e") for n in range(20)), lost=True
    )
    log = tried(Answer(status=204), parcel).tries
    assert len(log) == MOST_TRIES_LOGGED
    assert [one.duration_ms for one in log[:2]] == [2, 3]
    assert (log[-2].status, log[-2].error) == (0, "The process that tried was not heard of again")
    assert log[-1].status == 204


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("9" * 400, 9_999_999_999),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30),
        ("Thu Jan  1 00:00:10 2026", 10),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Thu, 99 Jan 2026 00:00:00 GMT", None),
        ("Thu, 31 Dec 99999999999999999999 23:59:59 GMT", None),
        ("Thu, 31 Dec 2026 23:59:59 +99999999999999", None),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0),
        ("(" * 7000, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """All three forms of HTTP dates; what is neither asks for nothing."""
    assert parse_retry_after(value, NOW) == seconds
