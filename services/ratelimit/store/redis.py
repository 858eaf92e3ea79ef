"""The store over Redis: what waits becomes the next script call, and trouble is noticed within one deadline.

Knows no rule. It is in one of three states: `ready`; stalled, while an answer is overdue; away, without a connection. Only
one task leads back to `ready`, and its first script call settles debts, so nothing is decided there before it knows what was
admitted without it. That call is also the single probe: no decision is spent on finding out whether Redis is back.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

import hiredis

from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Ledger
from services.ratelimit.store.connection import Connection, connect
from services.ratelimit.store.flight import Frame, Script, Waiter
from services.ratelimit.store.frame import settle_arguments

log = get_logger(__name__)

# A frame stays below what one Lua stack takes, and below a millisecond of Redis's time.
_FRAME_ASKS = 512
_FRAME_KEYS = 2000
_DEBTS_A_CALL = 500
# After this long without a word the connection is given up and another one tried.
_SILENCE_SECONDS = 1.0
_RETRY_FIRST_SECONDS = 0.05
_RETRY_MOST_SECONDS = 0.5
# Whoever finds another value here than before knows that Redis has lost its counters since.
_MARKER = "rl:marker"
_MARKER_LIVES_SECONDS = 7 * 24 * 3600


class RedisStore:
    """The counters that all instances share.

    Args:
        deadline_seconds: how long Redis may take to answer a frame before its asks are decided without it.
        in_flight: how many frames may be unanswered; what arrives meanwhile forms the next one.
    """

    def __init__(self, url: str, ledger: Ledger, *, deadline_seconds: float, in_flight: int = 1) -> None:
        self._url = url
        self._ledger = ledger
        self._deadline_seconds = deadline_seconds
        self._most_in_flight = in_flight
        self._script = Script.load()
        self._connection: Connection | None = None
        self._ready = False
        self._marker = b""
        self._queue: deque[Waiter] = deque()
        self._frames: set[Frame] = set()
        self._pumping = False
        self._trouble = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._ready

    # -- decisions -----------------------------------------------------------------------------------------------

    def decide(self, asks: Sequence[Ask]) -> "asyncio.Future[Answer]":
        """Joins the next frame; see the port."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._ready:
            future.set_exception(Unavailable(private="Redis is away"))
            return future
        self._queue.append(Waiter(asks, future))
        if not self._pumping and len(self._frames) < self._most_in_flight:
            # At the end of this turn of the loop: what else it brings goes along.
            self._pumping = True
            loop.call_soon(self._pump)
        return future

    def _pump(self) -> None:
        self._pumping = False
        while self._queue and len(self._frames) < self._most_in_flight and self._connection is not None:
            waiters: list[Waiter] = []
            asks = keys = 0
            while self._queue and (not waiters or (asks < _FRAME_ASKS and keys < _FRAME_KEYS)):
                waiter = self._queue.popleft()
                if not waiter.future.done():
                    waiters.append(waiter)
                    asks += len(waiter.asks)
                    keys += sum(len(ask.keys) for ask in waiter.asks)
            if waiters:
                frame = Frame(waiters, self._script, self._frame_ended, self._overdue)
                self._frames.add(frame)
                frame.send(self._connection, self._deadline_seconds)

    def _frame_ended(self, frame: Frame, failure: Exception | None) -> None:
        """A frame was answered, or never will be."""
        self._frames.discard(frame)
        if failure is not None and self._connection is not None:
            self._give_up(f"{type(failure).__name__}: {failure}")
        elif self._queue and not self._pumping:
            self._pump()

    def _overdue(self) -> None:
        """A frame is not answered in time: from now on, and until Redis has caught up, nothing is asked."""
        self._refuse("Redis does not answer in time")

    def _give_up(self, reason: str) -> None:
        self._refuse(reason)
        if self._connection is not None:
            self._connection.close()

    def _refuse(self, reason: str) -> None:
        if self._ready:
            log.warning("Deciding without Redis", reason=reason)
        self._ready = False
        self._trouble.set()
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(Unavailable(private=reason))

    # -- the way back --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps a connection and settles with Redis whenever it has been away, for ever."""
        attempt = 0
        while True:
            try:
                self._connection = await connect(self._url, timeout_seconds=_SILENCE_SECONDS)
                attempt = 0
                await self._serve(self._connection)
                reason = "the connection has ended"
            except (OSError, hiredis.ReplyError) as error:
                # TimeoutError is an OSError.
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._give_up("stopping")
            log.debug("No connection to Redis", reason=reason, attempt=attempt)
            await asyncio.sleep(backoff_seconds(attempt, first=_RETRY_FIRST_SECONDS, most=_RETRY_MOST_SECONDS))
            attempt += 1

    async def _serve(self, connection: Connection) -> None:
        # A stopped Redis accepts connections; it is told nothing that counts before it has spoken.
        await connection.call("PING", timeout_seconds=_SILENCE_SECONDS)
        await connection.call("SCRIPT", "LOAD", self._script.source, timeout_seconds=_SILENCE_SECONDS)
        while True:
            self._trouble.clear()
            if await self._has_forgotten(connection):
                self._ledger.owe_everything()
            await self._settle(connection)
            log.info("Deciding with Redis")
            await self._trouble.wait()
            # Replies come in order: with this one, everything overdue has been answered.
            await connection.call("PING", timeout_seconds=_SILENCE_SECONDS)

    async def _has_forgotten(self, connection: Connection) -> bool:
        await connection.call(
            "SET", _MARKER, uuid4().hex, "NX", "EX", _MARKER_LIVES_SECONDS, timeout_seconds=_SILENCE_SECONDS
        )
        before, self._marker = self._marker, await self._read_marker(connection)
        return before not in {b"", self._marker}

    async def _read_marker(self, connection: Connection) -> bytes:
        value = await connection.call("GETEX", _MARKER, "EX", _MARKER_LIVES_SECONDS, timeout_seconds=_SILENCE_SECONDS)
        return bytes(value or b"")

    async def _settle(self, connection: Connection) -> None:
        while not self._ready:
            debts = self._ledger.take_debts(_DEBTS_A_CALL)
            done = connection.ask(*self._script.by_digest(settle_arguments(debts)))
            # Decisions follow on the same connection, so they find the last debts settled.
            self._ready = not self._ledger.owes
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await done
            except BaseException:
                self._ledger.put_back(debts)
                raise

    async def ping(self) -> None:
        """Asks Redis for a sign of life. Raises Unavailable, or what the connection raised."""
        if self._connection is None or not self._ready:
            raise Unavailable(private="Redis is away")
        if await self._read_marker(self._connection) != self._marker and self._ready:
            self._refuse("Redis has lost its counters")
