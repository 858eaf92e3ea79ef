"""The rules by which a directory remembers, and how Consul's answers are read."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis.config import Discovery
from chassis.discovery.consul import address_of, next_index
from chassis.discovery.directory import Address, Remember, WatchedDirectory, static_instances

_ONE = Address(host="10.0.0.1", port=9000)
_TWO = Address(host="10.0.0.2", port=9000)


class Backend:
    """Tells what a test says, when it says it."""

    def __init__(self) -> None:
        self.remember: dict[str, Remember] = {}

    async def follow(self, service: str, remember: Remember) -> None:
        self.remember[service] = remember
        await asyncio.Event().wait()


@pytest.fixture
async def backend() -> Backend:
    return Backend()


@pytest.fixture
async def directory(backend: Backend) -> AsyncIterator[WatchedDirectory]:
    watched = WatchedDirectory(Discovery(tasks_address="10.0.0.9:9000"), backend.follow)
    yield watched
    await watched.close()


async def test_settings_stand_in_until_the_backend_answers(directory: WatchedDirectory, backend: Backend) -> None:
    """A cold start without the backend works; its first answer replaces the settings."""
    assert directory.instances("tasks") == (Address(host="10.0.0.9", port=9000),)
    await asyncio.sleep(0)
    backend.remember["tasks"]([_TWO, _ONE])
    assert directory.instances("tasks") == (_ONE, _TWO)


async def test_an_empty_answer_changes_nothing(directory: WatchedDirectory, backend: Backend) -> None:
    """The last non-empty set is kept for ever."""
    directory.instances("tasks")
    await asyncio.sleep(0)
    backend.remember["tasks"]([_ONE])
    known = directory.instances("tasks")
    backend.remember["tasks"]([])
    assert directory.instances("tasks") is known


async def test_the_same_answer_in_another_order_is_no_change(directory: WatchedDirectory, backend: Backend) -> None:
    """Identity says whether anything changed."""
    directory.instances("tasks")
    await asyncio.sleep(0)
    backend.remember["tasks"]([_ONE, _TWO])
    known = directory.instances("tasks")
    backend.remember["tasks"]([_TWO, _ONE, _ONE])
    assert directory.instances("tasks") is known


async def test_every_waiter_hears_of_a_change(directory: WatchedDirectory, backend: Backend) -> None:
    """Two who wait for news of the same set both get the new one."""
    known = directory.instances("tasks")
    waiters = [asyncio.create_task(directory.changed("tasks", known)) for _ in range(2)]
    await asyncio.sleep(0)
    backend.remember["tasks"]([_ONE])
    assert await asyncio.gather(*waiters) == [(_ONE,), (_ONE,)]


async def test_one_watch_for_each_service(directory: WatchedDirectory, backend: Backend) -> None:
    """Asking again and again starts nothing new."""
    for _ in range(3):
        directory.instances("tasks")
        directory.instances("llm")
    await asyncio.sleep(0)
    assert len(directory._watches) == 2


def test_static_addresses_are_read_in_their_order() -> None:
    """host:port pairs, IPv6 in brackets."""
    settings = Discovery(llm_address="b:2, a:1,[::1]:3")
    assert static_instances(settings, "llm") == (
        Address(host="b", port=2),
        Address(host="a", port=1),
        Address(host="[::1]", port=3),
    )


@pytest.mark.parametrize(
    ("before", "answered", "following"),
    [(0, 7, 7), (7, 7, 7), (7, 9, 9), (9, 3, 0), (0, 0, 0)],
    ids=["first", "unchanged", "changed", "went backwards", "zero would not block"],
)
def test_the_index_of_the_next_query(before: int, answered: int, following: int) -> None:
    """Forwards it is followed; backwards or zero means to start over."""
    assert next_index(before, answered) == following


def test_a_service_without_an_address_is_on_its_node() -> None:
    """Consul leaves the address of a service empty when it is the node's."""
    node = {"Node": {"Address": "10.1.1.1"}, "Service": {"Address": "", "Port": 9000}}
    assert address_of(node) == Address(host="10.1.1.1", port=9000)
