"""Kind `automation`: a table of actions, each a few lines of real work on the payload's ``data`` or parameters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.tasks.worker.handlers.fetching import Fetcher
from worker.handler import HANDLER_ERROR, INVALID_INPUT, Assignment, Reject, Retry

_MAX_DELAY_SECONDS = 3600.0
_DELAY_STEPS = 20

Payload = Mapping[str, Any]
Action = Callable[[Payload, Assignment], Awaitable[Any]]


class Automation:
    """Takes ``{"action", …}``; the result always repeats the action's name.

    process_data: ``data`` (a list or an object, optional) → number of records and figures of every numeric field.
    test: → ``{"ok": true, "attempt"}``.
    delay: ``seconds`` (0 to 3600) → waits and reports progress.
    fail: ``permanent`` (default false), ``message``, ``after_seconds`` → fails, to try how failures look.
    http_request: ``url``, ``method``, ``headers``, ``body`` → ``{"status", "headers", "body"}``; listed hosts only.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._actions: dict[str, Action] = {
            "process_data": _process_data,
            "test": _test,
            "delay": _delay,
            "fail": _fail,
            "http_request": self._http_request,
        }

    async def handle(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt. Raises Reject for an unknown action or bad parameters."""
        payload = assignment.payload
        if not isinstance(payload, dict):
            raise Reject(INVALID_INPUT, "The payload must be a JSON object with an action")
        name = payload.get("action")
        action = self._actions.get(name) if isinstance(name, str) else None
        if action is None:
            raise Reject(INVALID_INPUT, f"Unknown action; known are: {', '.join(sorted(self._actions))}")
        return {"action": name, **await action(payload, assignment)}

    async def _http_request(self, payload: Payload, assignment: Assignment) -> dict[str, Any]:
        del assignment
        return await self._fetcher.fetch(payload)


async def _process_data(payload: Payload, assignment: Assignment) -> dict[str, Any]:
    del assignment
    data = payload.get("data", [])
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise Reject(INVALID_INPUT, "data must be a list or an object")
    return {"records": len(data), "fields": summarise(data)}


def summarise(records: list[Any]) -> dict[str, dict[str, float]]:
    """Count, sum, min, max and mean of every numeric field; bare numbers count as the field "value"."""
    columns: dict[str, list[float]] = {}
    for record in records:
        fields = record if isinstance(record, dict) else {"value": record}
        for name, value in fields.items():
            # True and False are integers to Python but not to anyone who sends them.
            if isinstance(value, int | float) and not isinstance(value, bool):
                columns.setdefault(name, []).append(value)
    return {
        name: {
            "count": len(values),
            "sum": sum(values),
            "min": min(values),
            "max": max(values),
            "mean": sum(values) / len(values),
        }
        for name, values in columns.items()
    }


async def _test(payload: Payload, assignment: Assignment) -> dict[str, Any]:
    del payload
    return {"ok": True, "attempt": assignment.attempt}


async def _delay(payload: Payload, assignment: Assignment) -> dict[str, Any]:
    seconds = _number(payload, "seconds", 1.0)
    if not 0 <= seconds <= _MAX_DELAY_SECONDS:
        raise Reject(INVALID_INPUT, f"seconds must be between 0 and {_MAX_DELAY_SECONDS:.0f}")
    for step in range(_DELAY_STEPS):
        await asyncio.sleep(seconds / _DELAY_STEPS)
        await assignment.progress((step + 1) / _DELAY_STEPS, "waiting")
    return {"waited_seconds": seconds, "attempt": assignment.attempt}


async def _fail(payload: Payload, assignment: Assignment) -> dict[str, Any]:
    del assignment
    message = payload.get("message", "Failed as asked")
    if not isinstance(message, str):
        raise Reject(INVALID_INPUT, "message must be a string")
    if payload.get("permanent") is True:
        raise Reject(HANDLER_ERROR, message)
    raise Retry(message, after_seconds=_number(payload, "after_seconds", 0.0))


def _number(payload: Payload, field: str, default: float) -> float:
    value = payload.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Reject(INVALID_INPUT, f"{field} must be a number")
    return float(value)
