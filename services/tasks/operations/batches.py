"""Micro-batches: calls that arrive while a batch is being written form the next one. Knows nothing of what is written.

An idle batcher writes a lone item at once. A busy one begins at most one batch every few milliseconds, so that under
load many calls share a commit and its round trips, and the busier it is the larger its batches become.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from chassis.errors import MeshError, Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items for `write`, which answers each with a result or an error, in order.

    An item's future resolves only after `write` has returned, which is after its commit. When `write` raises, all
    items of that batch get the error. `run` has to run for anything to happen; more than one may, and then the others
    begin only when a full batch waits, so that concurrency does not make batches small.

    Args:
        drop: told of each item that is not written, because its caller left before.
        rows: how many rows an item is, for a batch's bound.
        most_rows: a batch is closed when it holds so many.
        pace_seconds: between the beginnings of two batches that are not full.
        most_waiting: rows that may wait; past it `put` raises Unavailable (code ``OVERLOADED``).
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R | MeshError]]],
        *,
        drop: Callable[[T], None] = lambda _: None,
        rows: Callable[[T], int] = lambda _: 1,
        most_rows: int = 200,
        pace_seconds: float = 0.005,
        most_waiting: int = 20_000,
    ) -> None:
        self._write = write
        self._drop = drop
        self._rows = rows
        self._most_rows = most_rows
        self._pace_seconds = pace_seconds
        self._began_at = float("-inf")
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._waiting_rows = 0
        self._idle: deque[asyncio.Future[None]] = deque()
        self._writing = 0

    def put(self, item: T, future: asyncio.Future[R] | None = None) -> asyncio.Future[R]:
        """Adds an item to the next batch; await the future for its result: the one that is given, or a new one."""
        if self._waiting_rows >= self._most_waiting:
            raise Unavailable("The service is overloaded", code="OVERLOADED", retry_after_seconds=1)
        if future is None:
            future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._waiting_rows += self._rows(item)
        if self._writing == 0 or self._waiting_rows >= self._most_rows:
            self._wake_one()
        return future

    async def run(self) -> None:
        """Writes batches for ever. When it is cancelled, what waits fails with Unavailable."""
        try:
            while True:
                if not self._may_write():
                    await self._rest()
                    continue
                self._writing += 1
                try:
                    await self._keep_pace()
                    await self._write_one(self._take())
                finally:
                    self._writing -= 1
        finally:
            self._refuse([future for _, future in self._waiting])

    async def _keep_pace(self) -> None:
        """Waits a little when the last batch began a moment ago, unless a full one is ready."""
        loop = asyncio.get_running_loop()
        rest = self._began_at + self._pace_seconds - loop.time()
        if rest > 0 and self._waiting_rows < self._most_rows:
            await asyncio.sleep(rest)
        self._began_at = loop.time()

    def _may_write(self) -> bool:
        return bool(self._waiting) and (self._writing == 0 or self._waiting_rows >= self._most_rows)

    async def _rest(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            await future
        finally:
            if future in self._idle:
                self._idle.remove(future)

    def _wake_one(self) -> None:
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch = []
        rows = 0
        while self._waiting and rows < self._most_rows:
            item, future = self._waiting.popleft()
            size = self._rows(item)
            self._waiting_rows -= size
            # Its caller left before anything was written: nothing needs to be.
            if future.done():
                self._drop(item)
            else:
                batch.append((item, future))
                rows += size
        return batch

    async def _write_one(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        if not batch:
            return
        try:
            answers = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, each of whom gets it
            answers = [error if isinstance(error, MeshError) else _Failed(error)] * len(batch)
        except asyncio.CancelledError:
            self._refuse([future for _, future in batch])
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            _settle(future, answer)

    @staticmethod
    def _refuse(futures: list[asyncio.Future[R]]) -> None:
        for future in futures:
            _settle(future, Unavailable("The service is going away"))


class _Failed(MeshError):
    """Carries an error that is not of the vocabulary to each caller, where it is logged as what it is."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(private=repr(cause))
        self.cause = cause


def _settle(future: "asyncio.Future[R]", answer: R | MeshError) -> None:
    if future.done():
        return
    if isinstance(answer, _Failed):
        future.set_exception(answer.cause)
    elif isinstance(answer, MeshError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
