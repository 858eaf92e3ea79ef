"""Answers kept under idempotency keys in Postgres. The database's clock decides what has ended, for all processes."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from chassis.errors import Conflict, Unavailable
from chassis.logging import get_logger
from services.llm.model import Answer, Choice, Message, Usage
from services.llm.ports import Held
from services.llm.tables import answers

log = get_logger(__name__)

_SWEEP_SECONDS = 60.0
_SWEEP_ROWS = 1000


class KeptAnswers:
    """See `services.llm.ports.Answers`.

    Args:
        hold_seconds: how long a key is held for one who neither comes back nor renews it.
        keep_seconds: how long an answer is kept.
    """

    def __init__(self, database: Database, *, hold_seconds: float, keep_seconds: float) -> None:
        self._database = database
        self._hold = timedelta(seconds=hold_seconds)
        self._keep = timedelta(seconds=keep_seconds)

    async def hold(self, owner: str, key: str, fingerprint: bytes) -> Held | Answer | None:
        """Takes the key, or returns what is kept under it."""
        async with self._database.transaction() as connection:
            token = await self._take(connection, owner, key, fingerprint)
            if token is not None:
                return Held(token=str(token))
            found = await connection.execute(
                select(answers.c.fingerprint, answers.c.answer).where(answers.c.owner == owner, answers.c.key == key)
            )
            row = found.one_or_none()
        if row is None:
            # It was given back between the two statements; the caller asks again.
            return None
        if row.fingerprint != fingerprint:
            raise Conflict("The idempotency key was used for another request", code="IDEMPOTENCY_MISMATCH")
        return None if row.answer is None else _decode(row.answer)

    async def _take(self, connection: AsyncConnection, owner: str, key: str, fingerprint: bytes) -> UUID | None:
        row = {
            "fingerprint": fingerprint,
            "token": uuid4(),
            "answer": None,
            "held_until": func.now() + self._hold,
            "expires_at": func.now() + self._keep,
        }
        forsaken: ColumnElement[bool] = or_(
            answers.c.expires_at <= func.now(),
            answers.c.answer.is_(None) & (answers.c.held_until <= func.now()) & (answers.c.fingerprint == fingerprint),
        )
        statement = (
            insert(answers)
            .values(owner=owner, key=key, **row)
            .on_conflict_do_update(index_elements=["owner", "key"], set_=row, where=forsaken)
            .returning(answers.c.token)
        )
        token: UUID | None = (await connection.execute(statement)).scalar_one_or_none()
        return token

    async def renew(self, owner: str, key: str, held: Held) -> None:
        """Begins the lease anew."""
        statement = update(answers).values(held_until=func.now() + self._hold)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(statement.where(*_ours(owner, key, held)))
        except Unavailable as error:
            log.info("A key could not be renewed; it is tried again", error=error.private)

    async def keep(self, owner: str, key: str, held: Held, answer: Answer) -> None:
        """Keeps the answer."""
        statement = update(answers).values(answer=orjson.dumps(answer), expires_at=func.now() + self._keep)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(statement.where(*_ours(owner, key, held)))
        except Unavailable as error:
            # The provider has answered and is paid. The caller gets the answer; a repetition waits for the lease.
            log.warning("An answer could not be kept under its key", error=error.private)

    async def free(self, owner: str, key: str, held: Held) -> None:
        """Gives the key back."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute(delete(answers).where(*_ours(owner, key, held)))
        except Unavailable as error:
            log.warning("A key could not be given back; it is free when its lease ends", error=error.private)

    async def sweep(self) -> None:
        """Removes expired answers, for ever."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                removed = _SWEEP_ROWS
                while removed == _SWEEP_ROWS:
                    removed = await self._sweep_once()
            except Unavailable as error:
                log.info("Expired answers stay for now", error=error.private)

    async def _sweep_once(self) -> int:
        old = (
            select(answers.c.owner, answers.c.key)
            .where(answers.c.expires_at <= func.now())
            .limit(_SWEEP_ROWS)
            .with_for_update(skip_locked=True)
            .cte("old")
        )
        statement = delete(answers).where(answers.c.owner == old.c.owner, answers.c.key == old.c.key)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount


def _ours(owner: str, key: str, held: Held) -> tuple[ColumnElement[bool], ...]:
    return answers.c.owner == owner, answers.c.key == key, answers.c.token == UUID(held.token)


def _decode(stored: bytes) -> Answer:
    document: dict[str, Any] = orjson.loads(stored)
    return Answer(
        id=document["id"],
        model=document["model"],
        provider=document["provider"],
        choices=tuple(_choice(entry) for entry in document["choices"]),
        usage=Usage(**document["usage"]),
        created_at=datetime.fromisoformat(document["created_at"]),
    )


def _choice(entry: Mapping[str, Any]) -> Choice:
    message = entry["message"]
    parts, calls = tuple(message.pop("parts")), tuple(message.pop("tool_calls"))
    return Choice(
        index=entry["index"],
        message=Message(**message, parts=parts, tool_calls=calls),
        finish_reason=entry["finish_reason"],
    )
