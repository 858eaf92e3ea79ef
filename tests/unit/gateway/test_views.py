"""Protobuf values as JSON shows them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from mesh.agents.v1 import agents_pb2
from mesh.tasks.v1 import tasks_pb2

from services.gateway import views

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2024-01-15T12:00:00Z"),
        (NOON + timedelta(microseconds=123_456), "2024-01-15T12:00:00.123Z"),
        (NOON.astimezone(timezone(timedelta(hours=2))), "2024-01-15T12:00:00Z"),
    ],
)
def test_moments_are_utc_with_a_z(moment, text):
    """As all the documents print them."""
    assert views.iso(moment) == text


def test_a_field_that_is_not_set_is_null():
    """The epoch would be a lie."""
    run = agents_pb2.Run()
    assert views.instant(run, "started_at") is None
    run.started_at.FromDatetime(NOON)
    assert views.instant(run, "started_at") == "2024-01-15T12:00:00Z"


@pytest.mark.parametrize(("part", "whole", "shown"), [(120, 127, 94.5), (4, 5, 80.0), (0, 0, 0.0), (1, 3, 33.3)])
def test_percentages_have_one_decimal(part, whole, shown):
    """And nothing of nothing is 0."""
    assert views.percentage(part, whole) == shown


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (637_000_000, "637MB"), (3_800_000_000, "3.8GB"), (10**15, "1000TB")]
)
def test_sizes_are_for_people(size, text):
    """As `ollama list` shows them."""
    assert views.size_text(size) == text


@pytest.mark.parametrize("state", [state for state in tasks_pb2.State.values() if state])
def test_state_names_go_both_ways(state):
    """What a list shows, a filter takes."""
    assert views.state_number(views.state_name(state)) == state


def test_every_priority_has_a_class():
    """Rising with the number."""
    classes = [views.priority_number(number) for number in range(1, 11)]
    assert classes == sorted(classes)
    assert {views.priority_name(each) for each in classes} == {"low", "normal", "high", "critical"}


@pytest.mark.parametrize(("document", "shown"), [(b"", {}), (b"[1]", {}), (b'{"a":1}', {"a": 1})])
def test_what_should_be_an_object_is_one(document, shown):
    """An event's data is never anything else to a client."""
    assert views.json_object(document) == shown
