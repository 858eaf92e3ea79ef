"""How queues are named and declared for each line of RabbitMQ."""

import pytest

from chassis.messaging.message import EVENTS, WORK
from chassis.messaging.topology import PARKING, QueueSpec, events_queue, parse_version, work_queue, work_queues

_QUORUM = QueueSpec(name="work.x.p0", queue_type="quorum")


@pytest.mark.parametrize("version", [(), (3, 10, 8), (3, 13)])
def test_before_4_no_delivery_limit_is_sent(version: tuple[int, ...]) -> None:
    """There the argument is a trap: -1 drops the first message that is returned."""
    assert _QUORUM.declare_arguments(version) == {"x-queue-type": "quorum"}


@pytest.mark.parametrize("version", [(4, 0), (4, 3, 6)])
def test_since_4_the_delivery_limit_is_high_and_leads_to_parking(version: tuple[int, ...]) -> None:
    """The default of 20 would drop messages while a store is away."""
    arguments = _QUORUM.declare_arguments(version)
    assert arguments["x-delivery-limit"] == 1000
    assert arguments["x-dead-letter-routing-key"] == PARKING


def test_a_classic_queue_is_declared_alike_everywhere() -> None:
    """Equal arguments, so that an upgrade of the broker finds the queue as it was declared."""
    spec = work_queue("agents", 1)
    assert spec.declare_arguments((3, 10)) == spec.declare_arguments((4, 3)) == {}


def test_an_exclusive_queue_is_never_quorum() -> None:
    """Brokers refuse that."""
    spec = events_queue("live", ["#"], exclusive=True, queue_type="quorum")
    assert spec.declare_arguments((4, 0)) == {}
    assert not spec.durable


def test_work_queues_are_named_by_group_and_class() -> None:
    """The routing key is the queue's name."""
    assert [spec.name for spec in work_queues("llm")] == [f"work.llm.p{number}" for number in range(4)]
    assert all(spec.exchange == WORK and spec.bindings == (spec.name,) for spec in work_queues("llm"))


@pytest.mark.parametrize("priority_class", [-1, 4])
def test_a_class_that_does_not_exist_is_refused(priority_class: int) -> None:
    """A typing error must not make a queue that nobody serves."""
    with pytest.raises(ValueError, match="priority class"):
        work_queue("llm", priority_class)


def test_an_events_queue_is_bound_by_its_patterns() -> None:
    """Shared and durable unless it is exclusive."""
    spec = events_queue("agents.task-events", ["tasks.task.*"])
    assert (spec.exchange, spec.bindings, spec.durable) == (EVENTS, ("tasks.task.*",), True)


@pytest.mark.parametrize(
    ("written", "read"),
    [(b"3.10.8", (3, 10, 8)), ("4.3.0-rc.1", (4, 3, 0)), ("", ()), ("4.1.x", (4, 1))],
)
def test_versions_are_read_as_servers_write_them(written: bytes | str, read: tuple[int, ...]) -> None:
    """Bytes or text, with or without a suffix."""
    assert parse_version(written) == read
