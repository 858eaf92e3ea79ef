"""How many pointers travel in one message."""

from collections.abc import Sequence
from datetime import UTC, datetime

from services.tasks.model.states import Priority
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.bundles import Bundles

_AT = datetime(2026, 1, 1, tzinfo=UTC)


class _Broker:
    """Takes every message but those with these pointers."""

    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.bundles: list[list[int]] = []

    async def publish(self, bundles: Sequence[Sequence[WaitingPointer]]) -> list[bool]:
        self.bundles = [[one.seq for one in bundle] for bundle in bundles]
        return [self.refused.isdisjoint(bundle) for bundle in self.bundles]


def _pointers(*seqs: int, group: str = "builtin", priority: Priority = Priority.NORMAL) -> list[WaitingPointer]:
    return [
        WaitingPointer(
            lane="",
            group=group,
            priority=priority,
            owner_id="ann",
            seq=seq,
            task_id=f"t{seq}",
            attempt=0,
            traceparent="",
            at=_AT,
        )
        for seq in seqs
    ]


async def _moving(per_second: int) -> Bundles:
    """A queue that has moved so fast for two seconds."""
    bundles = Bundles()
    for step in range(201):
        bundles.measure("builtin", Priority.NORMAL, 0, step / 100)
        await bundles.publish(_pointers(*range(per_second // 100)), _Broker().publish)
    bundles.measure("builtin", Priority.NORMAL, 0, 2.01)
    return bundles


async def test_pointers_travel_one_by_one_where_a_queue_moves_slowly() -> None:
    """What a worker has received no other takes."""
    broker = _Broker()
    await (await _moving(200)).publish(_pointers(1, 2, 3), broker.publish)
    assert broker.bundles == [[1], [2], [3]]


async def test_a_message_holds_what_its_queue_takes_in_five_milliseconds() -> None:
    """In the order of the pointers, and sixteen at most."""
    broker = _Broker()
    await (await _moving(1000)).publish(_pointers(*range(12)), broker.publish)
    assert broker.bundles == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    await (await _moving(10_000)).publish(_pointers(*range(20)), broker.publish)
    assert list(map(len, broker.bundles)) == [16, 4]


async def test_a_queue_that_stands_gets_pointers_one_by_one_again() -> None:
    """Within a second of looks."""
    bundles = await _moving(10_000)
    for step in range(50):
        bundles.measure("builtin", Priority.NORMAL, 4, 2.02 + step / 50)
    broker = _Broker()
    await bundles.publish(_pointers(1, 2), broker.publish)
    assert broker.bundles == [[1], [2]]


async def test_pointers_of_different_queues_never_share_a_message() -> None:
    """Groups and priorities each have their own, and their own pace."""
    broker = _Broker()
    normal, high = _pointers(1, 3), _pointers(2, 4, priority=Priority.HIGH)
    mixed = [normal[0], high[0], normal[1], high[1], *_pointers(5, group="llm")]
    await (await _moving(1000)).publish(mixed, broker.publish)
    assert broker.bundles == [[1, 3], [2], [4], [5]]


async def test_what_the_broker_refuses_is_refused_for_the_whole_message() -> None:
    """And for no other."""
    bundles = await _moving(400)
    assert await bundles.publish(_pointers(1, 2, 3, 4), _Broker(3).publish) == [True, True, False, False]


async def test_pointers_that_share_a_row_are_refused_each_for_its_own_message() -> None:
    """Those of one commit share the number of its row, whichever queues and messages they go to."""
    pointers = [one._replace(seq=7) for one in _pointers(1, 2, 3)]

    async def publish(bundles: Sequence[Sequence[WaitingPointer]]) -> list[bool]:
        return [one.task_id != "t2" for (one,) in bundles]

    assert await Bundles().publish(pointers, publish) == [True, False, True]


async def test_messages_in_a_queue_count_as_many_pointers_as_they_were_published_with() -> None:
    """A window that is kept in pointers needs that."""
    bundles = await _moving(1000)
    await bundles.publish(_pointers(*range(20)), _Broker().publish)
    assert bundles.measure("builtin", Priority.NORMAL, 3, 2.02) == 15
