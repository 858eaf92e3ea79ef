"""The broker's queues: declared once, also while it is away, and looked at one by one."""

from chassis.errors import Unavailable
from chassis.messaging.topology import QueueSpec
from services.tasks.model.states import Priority
from services.tasks.peers.queues import BrokerQueues


class FakeBroker:
    """Knows how many messages are ready in which queue; None where there is no queue."""

    def __init__(self) -> None:
        self.ready: dict[str, int | None] = {}
        self.expected: list[str] = []
        self.ensured = 0
        self.away = False

    def expect(self, *specs: QueueSpec) -> None:
        self.expected += [spec.name for spec in specs]

    async def ensure(self, *specs: QueueSpec) -> None:
        self.expect(*specs)
        self.ensured += 1
        if self.away:
            raise Unavailable(code="BROKER_ERROR")

    async def ready_count(self, queue: str) -> int | None:
        return self.ready[queue]


def make() -> tuple[FakeBroker, BrokerQueues]:
    broker = FakeBroker()
    return broker, BrokerQueues(broker, "classic")  # type: ignore[arg-type]  # the part that is asked


async def test_a_group_is_declared_once_with_its_four_queues() -> None:
    """Nothing is said to the broker again for a group it knows."""
    broker, queues = make()
    await queues.declare(["builtin"])
    await queues.declare(["builtin"])
    assert broker.expected == [f"work.builtin.p{urgency}" for urgency in range(4)]
    await queues.declare(["agents", "builtin"])
    assert (len(broker.expected), broker.ensured) == (8, 2)


async def test_a_group_announced_while_the_broker_is_away_is_expected() -> None:
    """Its queues come with the next connection, and whoever announced it is not refused."""
    broker, queues = make()
    broker.away = True
    await queues.declare(["builtin"])
    assert len(broker.expected) == 4
    broker.away = False
    await queues.declare(["builtin"])
    await queues.declare(["builtin"])
    assert broker.ensured == 2


async def test_missing_queues_are_empty_and_brought_back() -> None:
    """A deleted queue holds nothing, and pointers need one again."""
    broker, queues = make()
    broker.ready = {"work.g.p0": None, "work.g.p1": 0, "work.g.p2": 3}
    wanted = [("g", Priority.CRITICAL), ("g", Priority.HIGH), ("g", Priority.NORMAL)]
    assert await queues.find_empty(wanted) == wanted[:2]
    assert broker.ensured == 1
