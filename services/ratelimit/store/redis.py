"""The store over Redis: what waits becomes the next script call, and trouble is noticed within one deadline.

Knows no rule. It is `ready`, or an answer is overdue, or there is no connection. One way leads back to `ready`: a
script call that settles debts, so nothing is decided there before Redis knows what was admitted without it. That call
is also the single probe: no decision is spent on finding out whether Redis is back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import hiredis

from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.ratelimit.model.errands import gives_back
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Ledger, Moved
from services.ratelimit.store.calls import Calls
from services.ratelimit.store.connection import Connection, connect
from services.ratelimit.store.flight import Flight, Frame, Script, Settlement, Waiter
from services.ratelimit.store.lull import Lull

log = get_logger(__name__)

# A frame takes Redis one or two milliseconds at most. A class has eight rules at most.
_FRAME_ASKS = 256
_FRAME_KEYS = 512
_SURELY_A_FRAME = _FRAME_KEYS // 8
# Redis decides one while this process reads and writes others.
_FULL_IN_FLIGHT = 2
_DEBTS_A_CALL = 200
_MOST_ROUNDS = 2
# After this long without a word the connection is given up and another one tried.
_SILENCE_SECONDS = 1.0
_LISTEN_EVERY_SECONDS = 0.1
_RETRY_FIRST_SECONDS = 0.05
_RETRY_MOST_SECONDS = 0.5
# By then every instance has found a Redis that is back, and told its debts.
_OTHERS_RETURN_SECONDS = _SILENCE_SECONDS + _RETRY_MOST_SECONDS
_NUMBER_LIVES_SECONDS = 7 * 24 * 3600


class RedisStore:
    """The counters that all instances share.

    Args:
        deadline_seconds: for how long Redis may owe an answer before what it was asked is decided without it.
        in_flight: how many frames may be unanswered; what arrives meanwhile forms the next one.
        keeps: whether this Redis keeps a counter; on a cluster each node keeps some.
    """

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        *,
        deadline_seconds: float,
        in_flight: int = 1,
        keeps: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._url = url
        self._ledger = ledger
        self._deadline_seconds = deadline_seconds
        self._most_in_flight = in_flight
        self._script = Script.load()
        self._connection: Connection | None = None
        self._ready = False
        self._calls = Calls(ledger, keeps)
        self._queue: deque[Waiter] = deque()
        self._flights: set[Flight] = set()
        # What is in flight has gone on without an answer.
        self._in_doubt = False
        self._watch: asyncio.TimerHandle | None = None
        self._lull = Lull(self._queue, self._pump)
        self._rounds = 0
        self._was_ready = False
        self._trusted_from = 0.0
        self._in_cluster = False
        # While slots of this node are on the move, debts are not told in the common way.
        self.withholds = False

    @property
    def ready(self) -> bool:
        return self._ready

    def shares(self, asks: Sequence[Ask]) -> "list[tuple[RedisStore, range]] | None":
        """One server can be asked about everything, a frame at a time."""
        count = len(asks)
        # What gives back goes as a whole, ahead of what is asked after it.
        if count <= _SURELY_A_FRAME or gives_back(asks[0].errand):
            return None
        frames = max(-(-count // _FRAME_ASKS), -(-sum(len(ask.keys) for ask in asks) // _FRAME_KEYS))
        return [(self, range(count * part // frames, count * (part + 1) // frames)) for part in range(frames)]

    # -- decisions -----------------------------------------------------------------------------------------------

    def decide(self, asks: Sequence[Ask]) -> "asyncio.Future[Answer]":
        """Joins the next frame; see the port."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not self._ready:
            future.set_exception(Unavailable(private="Redis is away"))
            return future
        self._queue.append(Waiter(asks, future))
        self._pump_soon()
        return future

    def _pump_soon(self) -> None:
        """Sends the next frame once nobody else comes to go along; without that a frame is one or two calls."""
        if self._in_doubt:
            return
        if self._is_full and len(self._flights) < _FULL_IN_FLIGHT:
            self._pump()
        elif self._queue and not self._lull.awaited and len(self._flights) < self._most_in_flight:
            self._lull.begin(asyncio.get_running_loop())

    @property
    def _is_full(self) -> bool:
        """Whether the next frame needs no company."""
        return bool(self._queue) and 2 * len(self._queue[0].asks) >= _FRAME_ASKS

    def _pump(self) -> None:
        if self._in_doubt:
            return
        room = (_FULL_IN_FLIGHT if self._is_full else self._most_in_flight) - len(self._flights)
        # What is owed goes ahead of the frame, so that it is decided with it; it takes no room.
        self._tell_more()
        while self._queue and room > 0 and self._connection is not None:
            if waiters := self._next_waiters():
                frame = Frame(waiters, self._script, self._ended)
                self._send(frame, self._connection)
                room -= 1

    def _send(self, flight: Flight, connection: Connection) -> None:
        self._flights.add(flight)
        flight.send(connection, self._calls.next)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._deadline_seconds, self._look)

    def _look(self) -> None:
        """Is called whenever Redis could be late: goes on without it when it is.

        Redis is not asked again before it has answered what it was asked. Who came too late to be asked waits once more
        as long: most often Redis has only stumbled, and then nobody else goes without it and has to be settled later.
        """
        self._watch = None
        if self._connection is None or not self._flights:
            return
        left_seconds = (1 + self._in_doubt) * self._deadline_seconds - self._connection.silent_seconds
        if left_seconds <= 0:
            if self._in_doubt:
                self._refuse("Redis does not answer in time")
                return
            self._in_doubt = True
            for flight in self._flights:
                flight.expire()
            left_seconds = self._deadline_seconds
        self._watch = asyncio.get_running_loop().call_later(left_seconds, self._look)

    def _next_waiters(self) -> list[Waiter]:
        """Takes out who goes along in one frame."""
        waiters: list[Waiter] = []
        asks = keys = 0
        while self._queue:
            waiter = self._queue[0]
            asks += len(waiter.asks)
            keys += sum(len(ask.keys) for ask in waiter.asks)
            if waiters and (asks > _FRAME_ASKS or keys > _FRAME_KEYS):
                break
            self._queue.popleft()
            if not waiter.future.done():
                waiters.append(waiter)
        return waiters

    def _ended(self, flight: Flight, failure: Exception | None) -> None:
        """A script call was answered, or never will be."""
        self._flights.discard(flight)
        was_in_doubt, self._in_doubt = self._in_doubt, self._in_doubt and bool(self._flights)
        moved = isinstance(failure, Moved) and self._in_cluster
        if failure is not None and not moved:
            self._give_up(f"{type(failure).__name__}: {failure}")
        elif not moved and not self._calls.answered(flight):
            # A new connection settles everything.
            self._give_up("Redis has lost its counters")
        elif not self._ready:
            if not self._flights:
                # Those who were in doubt go first: what they find out is part of what is owed.
                asyncio.get_running_loop().call_soon(self._settle)
        elif was_in_doubt:
            asyncio.get_running_loop().call_soon(self._pump_soon)
        else:
            self._pump_soon()
            # Debts that were refused wait for those who know where they belong.
            if not self._lull.awaited and not moved:
                self._tell_more()

    def _give_up(self, reason: str) -> None:
        self._refuse(reason)
        if self._connection is not None:
            self._connection.close()

    def _refuse(self, reason: str) -> None:
        if self._ready:
            log.warning("Deciding without Redis", reason=reason)
        self._ready = False
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(Unavailable(private=reason))

    # -- the way back --------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tells Redis all that it does not know, and lets it decide again once that is little.

        Much is told in several calls, apart so that Redis can answer other instances in between. What was admitted
        meanwhile is told in the next round. A machine so busy that the rounds do not end decides with Redis all the
        same, and tells the rest between its frames.

        After a lost connection other instances have debts as well, and before Redis has heard all of them it lets too
        much pass: until each has had the time to come back, everybody goes on with its share.
        """
        if self._ready or self._connection is None or self._connection.closed.done():
            return
        if asyncio.get_running_loop().time() < self._trusted_from:
            if self._ledger.owes and not self.withholds:
                self._tell(self._connection)
            return
        self._rounds += 1
        # In the last round the first call alone; the others come between the frames.
        last = self._rounds == _MOST_ROUNDS
        calls = 0
        while calls == 0 or (self._ledger.owes and not last and not self.withholds):
            self._tell(self._connection)
            calls += 1
        if calls == 1:
            # Whoever asks from now on waits for this call to be answered, as for any frame.
            self._ready = self._was_ready = True
            self._rounds = 0
            log.info("Deciding with Redis")

    def _tell_more(self) -> None:
        """What is still owed although Redis decides goes along between the frames."""
        if self._in_doubt or self.withholds or not self._ready:
            return
        if self._ledger.owes and self._connection is not None:
            self._tell(self._connection)

    def _tell(self, connection: Connection) -> None:
        debts = [] if self.withholds else self._ledger.take_debts(_DEBTS_A_CALL)
        self._send(Settlement(debts, self._ledger, self._script, self._ended), connection)

    def tell_soon(self) -> None:
        """Tells what is owed now and not with the next frame."""
        self._tell_more()

    # -- as a node of a cluster ----------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        """The connection while decisions are taken over it."""
        return self._connection if self._ready else None

    @property
    def script(self) -> Script:
        return self._script

    def tag(self, tag: str) -> None:
        """Its calls are numbered where this hash tag is kept, and may change counters in all slots of the node."""
        self._in_cluster = True
        self._calls.tag(tag)

    def move(self, url: str) -> None:
        """Another node keeps these counters from now on."""
        self._url = url
        self._give_up("another node has taken over")

    # -- the connection ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps a connection, for ever."""
        attempt = 0
        while True:
            reason = "the process ends"
            try:
                self._connection = await connect(self._url, timeout_seconds=_SILENCE_SECONDS)
                await self._greet(self._connection)
                attempt = 0
                self._trusted_from = self._trust_from()
                self._settle()
                await self._listen(self._connection)
                reason = "the connection has ended"
            except (OSError, hiredis.ReplyError) as error:
                # TimeoutError is an OSError.
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._give_up(reason)
            level = log.debug if attempt else log.warning
            level("No connection to Redis", reason=reason)
            await asyncio.sleep(backoff_seconds(attempt, first=_RETRY_FIRST_SECONDS, most=_RETRY_MOST_SECONDS))
            attempt += 1

    def _trust_from(self) -> float:
        if self._was_ready and self._ledger.shared:
            return asyncio.get_running_loop().time() + _OTHERS_RETURN_SECONDS
        return 0.0

    async def _greet(self, connection: Connection) -> None:
        # A stopped Redis accepts connections; it is told nothing that counts before it has spoken.
        await connection.call("PING", timeout_seconds=_SILENCE_SECONDS)
        await connection.call("SCRIPT", "LOAD", self._script.source, timeout_seconds=_SILENCE_SECONDS)
        await self._compare(connection)

    async def _compare(self, connection: Connection) -> bool:
        """Whether Redis knows all it has answered; if not, what it does not know is owed to it."""
        key, lives, newest = self._calls.key, _NUMBER_LIVES_SECONDS, self._calls.newest
        known = int(await connection.call("GETEX", key, "EX", lives, timeout_seconds=_SILENCE_SECONDS) or 0)
        return self._calls.compare(known, newest)

    async def _listen(self, connection: Connection) -> None:
        """Waits until the connection has ended, and ends it when Redis falls silent."""
        while not connection.closed.done():
            if connection.silent_seconds > _SILENCE_SECONDS:
                self._give_up("Redis is silent")
            if not self._ready and not self._flights:
                self._settle()
            # A doubt may have been cleared too late for the way back.
            self._tell_more()
            await asyncio.wait({connection.closed}, timeout=_LISTEN_EVERY_SECONDS)

    async def ping(self) -> None:
        """Asks Redis for a sign of life, and whether it still has its counters. Raises when it does not answer."""
        connection = self._connection
        if connection is None or not self._ready:
            raise Unavailable(private="Redis is away")
        if not await self._compare(connection):
            self._give_up("Redis has lost its counters")
