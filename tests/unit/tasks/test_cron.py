"""When schedules come true: expressions, zones, clock changes and times that were missed."""

from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Invalid
from services.tasks.model.cron import Misfire, Times

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def next_of(cron: str, timezone: str, after: str, count: int = 1) -> list[str]:
    """The next times in UTC."""
    times, moment, found = Times(cron=cron, timezone=timezone), at(after), []
    for _ in range(count):
        following = times.after(moment)
        assert following is not None
        moment = following
        found.append(f"{moment:%m-%dT%H:%M:%S}")
    return found


@pytest.mark.parametrize(
    ("cron", "after", "following"),
    [
        ("*/15 * * * *", "2026-01-01T00:07:00Z", ["01-01T00:15:00", "01-01T00:30:00"]),
        ("*/20 * * * * *", "2026-01-01T00:00:05Z", ["01-01T00:00:20", "01-01T00:00:40"]),
        ("@hourly", "2026-01-01T00:00:00Z", ["01-01T01:00:00", "01-01T02:00:00"]),
        ("@weekly", "2026-01-01T00:00:00Z", ["01-04T00:00:00", "01-11T00:00:00"]),
        # Both days are restricted: either will do. The second of January 2026 is a Friday.
        ("0 0 13 * 5", "2026-01-01T00:00:00Z", ["01-02T00:00:00", "01-09T00:00:00", "01-13T00:00:00"]),
    ],
)
def test_expressions_mean_what_cron_means(cron: str, after: str, following: list[str]) -> None:
    """Five fields, six with seconds first, and the short names."""
    assert next_of(cron, "UTC", after, len(following)) == following


def test_a_time_that_a_clock_change_skips_comes_once_after_the_gap() -> None:
    """In Berlin there is no 02:30 on the 29th of March 2026; 03:00 there is 01:00 UTC."""
    found = next_of("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2)
    assert found == ["03-29T01:00:00", "03-30T00:30:00"]


def test_a_time_that_comes_twice_comes_once() -> None:
    """02:30 on the 25th of October 2026 is at 00:30 and at 01:30 UTC; the first one counts, wherever one looks from."""
    times = ["10-25T00:30:00", "10-26T01:30:00"]
    assert next_of("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2) == times
    for inside in ("2026-10-25T00:40:00Z", "2026-10-25T01:10:00Z", "2026-10-25T01:40:00Z"):
        assert next_of("30 2 * * *", "Europe/Berlin", inside) == times[1:]


def test_every_half_hour_follows_the_elapsed_time() -> None:
    """An expression with a star does not pause for a clock change."""
    found = next_of("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:15:00Z", 4)
    assert found == ["10-25T00:30:00", "10-25T01:00:00", "10-25T01:30:00", "10-25T02:00:00"]


@pytest.mark.parametrize(
    ("cron", "timezone", "code"),
    [
        ("", "UTC", "INVALID_CRON"),
        ("* * * *", "UTC", "INVALID_CRON"),
        ("61 * * * *", "UTC", "INVALID_CRON"),
        ("0 0 30 2 *", "UTC", "INVALID_CRON"),
        ("0 0 31 2 *", "UTC", "INVALID_CRON"),
        ("@never", "UTC", "INVALID_CRON"),
        ("* * * * * * *", "UTC", "INVALID_CRON"),
        ("a b c d e", "UTC", "INVALID_CRON"),
        ("0,1" + ",1" * 60 + " * * * *", "UTC", "INVALID_CRON"),
        ("* * * * *", "Mars/Olympus", "INVALID_TIMEZONE"),
        ("* * * * *", "../../etc/passwd", "INVALID_TIMEZONE"),
        ("* * * * *", "a\x00b", "INVALID_TIMEZONE"),
        ("* * * * *", "", "INVALID_TIMEZONE"),
        ("* * * * *", "localtime", "INVALID_TIMEZONE"),
        ("* * * * *", "posixrules", "INVALID_TIMEZONE"),
        ("* * * * *", "Factory", "INVALID_TIMEZONE"),
        ("* * * * *", "right/UTC", "INVALID_TIMEZONE"),
    ],
)
def test_nonsense_is_refused_by_name(cron: str, timezone: str, code: str) -> None:
    """Whatever it is, it is told apart from an error of ours."""
    with pytest.raises(Invalid) as caught:
        Times(cron=cron, timezone=timezone).check(NOW)
    assert caught.value.code == code


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "CET"])
def test_time_zones_have_their_iana_names(timezone: str) -> None:
    """With one slash, two or none."""
    Times(cron="* * * * *", timezone=timezone).check(NOW)


@pytest.mark.parametrize(
    ("misfire", "due"),
    [(Misfire.SKIP, []), (Misfire.ONCE, ["03:00"]), (Misfire.ALL, ["00:00", "01:00", "02:00", "03:00"])],
)
def test_times_that_were_missed_follow_the_policy(misfire: Misfire, due: list[str]) -> None:
    """Four hours of an hourly schedule passed while nobody looked."""
    found = Times(cron="@hourly", timezone="UTC").due(NOW, NOW + timedelta(hours=3, minutes=30), misfire)
    assert [f"{one:%H:%M}" for one in found] == due


@pytest.mark.parametrize("misfire", list(Misfire))
def test_a_time_that_is_only_late_is_had_under_every_policy(misfire: Misfire) -> None:
    """Somebody looked a little later than the moment itself, or twenty seconds."""
    times = Times(cron="*/10 * * * * *", timezone="UTC")
    assert times.due(NOW, NOW + timedelta(milliseconds=200), misfire) == [NOW]
    assert len(times.due(NOW, NOW + timedelta(seconds=20), misfire)) == 3


def test_a_year_of_missed_seconds_is_bounded() -> None:
    """The oldest thousand, and what is only late."""
    times = Times(cron="* * * * * *", timezone="UTC")
    assert len(times.due(NOW, NOW + timedelta(days=365), Misfire.ALL)) == 1000 + 61
    assert len(times.due(NOW, NOW + timedelta(days=365), Misfire.ONCE)) == 1 + 61
