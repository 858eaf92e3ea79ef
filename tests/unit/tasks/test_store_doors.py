"""Which of the two pools a statement takes: the planner's settings for what every task passes are on one of them."""

from collections.abc import Callable
from typing import Any

import pytest

from services.tasks.model.work import ClaimBatch, Outcome, OutcomeBatch
from services.tasks.store.store import Store

_CLAIM = ClaimBatch(session_id="s", pointers=())
_DONE = OutcomeBatch(session_id="s", outcomes=(Outcome(task_id="t", attempt=1, result=b"1"),))


class Used(Exception):
    """A pool was asked for a connection."""


class Door:
    """Stands for a pool."""

    def __init__(self, name: str) -> None:
        self._name = name

    def driver(self) -> Any:
        raise Used(self._name)

    statement = transaction = driver


@pytest.mark.parametrize(
    ("pool", "call"),
    [
        ("hot", lambda store: store.accept([])),
        ("hot", lambda store: store.claim([_CLAIM], 1.0)),
        ("hot", lambda store: store.complete([_DONE])),
        ("hot", lambda store: store.settle([_DONE], None)),
        ("hot", lambda store: store.feed([], None)),
        ("hot", lambda store: store.settle_direct({}, [])),
        ("cold", lambda store: store.requeue(None, None)),
        ("cold", lambda store: store.read_kinds()),
        ("cold", lambda store: store.drain_session("s")),
    ],
)
async def test_what_every_task_passes_has_a_pool_of_its_own(pool: str, call: Callable[[Any], Any]) -> None:
    """Whatever else the store is made of."""
    cold: Any = Door("cold")
    hot: Any = Door("hot")
    with pytest.raises(Used, match=pool):
        await call(Store(cold, lambda _due: None, hot=hot))
