"""Asks a provider, keeps account of it, and answers a repeated request with the answer it had."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chassis.clock import Clock
from chassis.errors import Conflict, MeshError
from services.llm.model import Answer, Charge, Chat, ModelUsage, Piece, Usage, estimate_tokens
from services.llm.operations.catalogue import Catalogue, Route
from services.llm.ports import Answers, Held, Ledger, UsageBook

_POLL_SECONDS = 0.1
# A few times in a lease. Who died renews nothing, and whoever repeats the request need not wait for long.
_RENEW_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the use-cases need from the world."""

    ledger: Ledger
    book: UsageBook
    answers: Answers
    clock: Clock


class Chats:
    """The use-cases.

    Args:
        wait_seconds: how long a repeated request waits for the first one's answer.
    """

    def __init__(self, catalogue: Catalogue, ports: Ports, *, wait_seconds: float) -> None:
        self._catalogue = catalogue
        self._ports = ports
        self._wait_seconds = wait_seconds

    async def chat(self, chat: Chat) -> Answer:
        """Answers in one piece; under a key that was used before, with the kept answer."""
        chat.check()
        route = self._catalogue.route(chat.model)
        if chat.idempotency_key:
            return await self._once(chat, route)
        return await self._ask(chat, route)

    async def stream(self, chat: Chat) -> AsyncGenerator[Piece, None]:
        """Answers as it is produced."""
        chat.check()
        route = self._catalogue.route(chat.model)
        tally = self._begin(chat, route)
        try:
            async with route.breaker.guard(), aclosing(route.provider.stream(chat, route.model)) as pieces:
                async for piece in pieces:
                    tally.count(piece)
                    yield piece
        except BaseException as error:
            tally.fail(error)
            raise
        finally:
            self._charge(tally)

    async def usage(self, user_id: str, since: datetime | None) -> tuple[ModelUsage, ...]:
        """The charges by model."""
        return await self._ports.book.totals(user_id, since)

    async def _ask(self, chat: Chat, route: Route) -> Answer:
        tally = self._begin(chat, route)
        try:
            async with route.breaker.guard():
                answer = await route.provider.chat(chat, route.model)
            tally.usage = answer.usage
        except BaseException as error:
            tally.fail(error)
            raise
        finally:
            self._charge(tally)
        return answer

    async def _once(self, chat: Chat, route: Route) -> Answer:
        owner, key, answers = chat.user_id, chat.idempotency_key, self._ports.answers
        found = await self._hold(chat)
        if isinstance(found, Answer):
            return found
        renewing = asyncio.ensure_future(self._renew(owner, key, found))
        try:
            answer = await self._ask(chat, route)
        except BaseException:
            await _finish(answers.free(owner, key, found))
            raise
        finally:
            renewing.cancel()
        # Kept before it is handed out: whoever has seen an answer gets the same one ever after.
        await _finish(answers.keep(owner, key, found, answer))
        return answer

    async def _renew(self, owner: str, key: str, held: Held) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            await self._ports.answers.renew(owner, key, held)

    async def _hold(self, chat: Chat) -> Held | Answer:
        fingerprint = chat.fingerprint
        give_up_at = self._ports.clock.monotonic() + self._wait_seconds
        while True:
            found = await self._ports.answers.hold(chat.user_id, chat.idempotency_key, fingerprint)
            if found is not None:
                return found
            if self._ports.clock.monotonic() >= give_up_at:
                raise Conflict(
                    "A request with this idempotency key is still being answered",
                    code="IDEMPOTENCY_IN_FLIGHT",
                    retry_after_seconds=1.0,
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _begin(self, chat: Chat, route: Route) -> "_Tally":
        clock = self._ports.clock
        at = clock.now()
        self._catalogue.touch(route, at)
        return _Tally(chat=chat, route=route, at=at, began=clock.monotonic())

    def _charge(self, tally: "_Tally") -> None:
        duration = self._ports.clock.monotonic() - tally.began
        self._ports.ledger.record(tally.charge(duration))


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What one request has come to so far."""

    chat: Chat
    route: Route
    at: datetime
    began: float
    usage: Usage | None = None
    outcome: str = "ok"
    said: list[str] = field(default_factory=list)

    def count(self, piece: Piece) -> None:
        for delta in piece.deltas:
            self.said.append(delta.content)
        if piece.usage is not None:
            self.usage = piece.usage

    def fail(self, error: BaseException) -> None:
        """The request ended early, unless all of it had been said."""
        if self.usage is not None:
            return
        if isinstance(error, Exception):
            self.outcome = error.code if isinstance(error, MeshError) else "INTERNAL"
        else:
            self.outcome = "cancelled"
        # The provider has read the question and charges for what it said until then.
        if self.said or self.outcome == "cancelled":
            written = estimate_tokens(self.said)
            self.usage = Usage(input_tokens=self.chat.estimated_tokens, output_tokens=written)

    def charge(self, duration_seconds: float) -> Charge:
        return Charge(
            at=self.at,
            user_id=self.chat.user_id,
            api_key_id=self.chat.api_key_id,
            model=self.route.model,
            provider=self.route.provider.name,
            outcome=self.outcome,
            usage=self.usage or Usage(),
            duration_seconds=duration_seconds,
        )


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Ends `work` even when who waits for it is cancelled meanwhile: half-done, it would hold a key for nothing."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
