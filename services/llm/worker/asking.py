"""The handlers of kinds `llm.chat` and `llm.batch`: conversations that take their time, each answered once."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from chassis.errors import DeadlineExceeded, Exhausted, MeshError, Unavailable
from chassis.retry import backoff_seconds
from services.llm.operations import Chats
from services.llm.worker import payloads
from worker.handler import INVALID_INPUT, Assignment, Kind, Reject

GROUP = "llm"
CHAT, BATCH = "llm.chat", "llm.batch"

# Of one batch; several of them share the slots of the process, and providers have limits of their own.
_AT_ONCE = 4
# An item whose provider is away or limits us waits for it: others of the batch may be another provider's.
_TRIES = 6
_MOST_PAUSE_SECONDS = 30.0
_PASSING = (Unavailable, DeadlineExceeded, Exhausted)
# A task's result may have 4 MiB.
_ROOM_BYTES = 3_500_000
_TOO_LARGE = "RESULT_TOO_LARGE"


class Asking:
    """Asks models. Payloads and results are those of `payloads`; a batch's result is ``{"items": [answer or
    {"error": {"code", "message"}}]}``, in the order of its items.

    Each question carries the task's id as its key and not the attempt's number: a crash after the answer replays it,
    and the provider is not paid twice.
    """

    def __init__(self, chats: Chats) -> None:
        self._chats = chats

    def kinds(self) -> Mapping[str, Kind]:
        """What the runner is to announce."""
        return {
            CHAT: Kind(handler=self.chat, max_attempts=3, timeout_seconds=300),
            BATCH: Kind(handler=self.batch, max_attempts=3, timeout_seconds=3600),
        }

    async def chat(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt at one conversation."""
        key = f"{assignment.task_id}:answer"
        asked = payloads.read_chat(assignment.payload, owner_id=assignment.owner_id, key=key)
        return payloads.answered(await self._chats.chat(asked))

    async def batch(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt at many; an item that fails is an error in its place and fails no other."""
        items = payloads.read_items(assignment.payload)
        answers: dict[int, dict[str, Any]] = {}
        waiting = iter(enumerate(items))

        async def work() -> None:
            for index, item in waiting:
                answers[index] = await self._answer(assignment, index, item)
                await assignment.progress(len(answers) / len(items), f"{len(answers)} of {len(items)}")

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(items))):
                group.create_task(work())
        return {"items": _fitting([answers[index] for index in range(len(items))])}

    async def _answer(self, assignment: Assignment, index: int, item: Any) -> dict[str, Any]:
        key = f"{assignment.task_id}:answer:{index}"
        try:
            asked = payloads.read_chat(item, owner_id=assignment.owner_id, key=key)
            for tried in range(1, _TRIES):
                try:
                    return payloads.answered(await self._chats.chat(asked))
                except _PASSING as error:
                    pause = error.retry_after_seconds or backoff_seconds(tried, first=0.5, most=_MOST_PAUSE_SECONDS)
                    await asyncio.sleep(min(pause, _MOST_PAUSE_SECONDS))
            return payloads.answered(await self._chats.chat(asked))
        except Reject as error:
            return _failed(INVALID_INPUT, error.message)
        except MeshError as error:
            return _failed(error.code, error.message)


def _fitting(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers, without the texts of those for which there is no room."""
    room, fitting = _ROOM_BYTES, []
    for answer in answers:
        size = len(orjson.dumps(answer))
        fits = size <= room
        room -= size if fits else 0
        fitting.append(answer if fits else _failed(_TOO_LARGE, "All answers of the batch together are too long"))
    return fitting


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
