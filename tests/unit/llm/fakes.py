"""The ports of the llm service, held in memory."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from chassis.breaker import Breaker
from chassis.clock import Clock
from chassis.errors import Conflict
from services.llm.model import Answer, Charge, Chat, Choice, Delta, Message, Model, ModelUsage, Piece, Usage
from services.llm.operations.catalogue import Source
from services.llm.ports import Held


class FakeProvider:
    """Answers "one two" at once. `error` is raised instead, while `pause` is cleared, it thinks."""

    def __init__(self, name: str, *models: str, default_model: str = "") -> None:
        self.name = name
        self.default_model = default_model
        self.has = [Model(name=model, provider=name) for model in models]
        self.error: Exception | None = None
        self.pause = asyncio.Event()
        self.pause.set()
        self.asked = 0

    async def models(self) -> tuple[Model, ...]:
        if self.error is not None:
            raise self.error
        return tuple(self.has)

    async def chat(self, chat: Chat, model: str) -> Answer:
        del chat
        await self._think()
        choice = Choice(index=0, message=Message(role="assistant", content="one two"), finish_reason="stop")
        return Answer(
            id=f"answer-{self.asked}",
            model=model,
            provider=self.name,
            choices=(choice,),
            usage=Usage(input_tokens=3, output_tokens=2),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )

    async def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        del chat
        yield Piece(id="answer", model=model, provider=self.name, deltas=(Delta(index=0, content="one"),))
        await self._think()
        yield Piece(id="answer", model=model, provider=self.name, deltas=(Delta(index=0, content=" two"),))
        yield Piece(id="answer", model=model, provider=self.name, usage=Usage(input_tokens=3, output_tokens=2))

    async def _think(self) -> None:
        self.asked += 1
        await self.pause.wait()
        if self.error is not None:
            raise self.error


class FakeLedger:
    """Remembers the charges."""

    def __init__(self) -> None:
        self.charges: list[Charge] = []

    def record(self, charge: Charge) -> None:
        self.charges.append(charge)


class FakeBook:
    """Knows one total."""

    async def totals(self, user_id: str, since: datetime | None) -> tuple[ModelUsage, ...]:
        del user_id, since
        return (ModelUsage(model="m", requests=1, failures=0, input_tokens=3, output_tokens=2),)


class FakeAnswers:
    """Keys and their answers."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], tuple[bytes, Answer | None]] = {}
        self.renewed = 0

    async def renew(self, owner: str, key: str, held: Held) -> None:
        del owner, key, held
        self.renewed += 1

    async def hold(self, owner: str, key: str, fingerprint: bytes) -> Held | Answer | None:
        if (owner, key) not in self.rows:
            self.rows[owner, key] = (fingerprint, None)
            return Held(token="t")
        known, answer = self.rows[owner, key]
        if known != fingerprint:
            raise Conflict(code="IDEMPOTENCY_MISMATCH")
        return answer

    async def keep(self, owner: str, key: str, held: Held, answer: Answer) -> None:
        del held
        self.rows[owner, key] = (self.rows[owner, key][0], answer)

    async def free(self, owner: str, key: str, held: Held) -> None:
        del held
        del self.rows[owner, key]


def source(provider: FakeProvider, clock: Clock, *, expected: bool = True) -> Source:
    """A provider with its breaker."""
    return Source(provider=provider, breaker=Breaker(provider.name, clock), expected=expected, refresh_seconds=300)
