"""The handler of kinds `feature`, `bug`, `docs` and `test`: development tasks, done by an agent that can."""

from collections.abc import Mapping
from typing import Any

from services.agents.model.matching import KINDS
from services.agents.operations.registry import Registry
from worker.handler import INVALID_INPUT, Assignment, Kind, Reject, Retry

_NOBODY_AGAIN_SECONDS = 30.0
_ASKED = {
    "feature": "Implement this feature.",
    "bug": "Find and fix this bug.",
    "docs": "Write this documentation.",
    "test": "Write these tests.",
}


class Developing:
    """Does development tasks. The payload is ``{"title", "description"?, "estimated_hours"?}``, the result
    ``{"output", "model", "tokens", "agent_id", "agent_name"}``.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def kinds(self) -> Mapping[str, Kind]:
        """What the runner is to announce."""
        return {kind: Kind(handler=self.handle, max_attempts=3, timeout_seconds=300) for kind in KINDS}

    async def handle(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt. The question carries the task's id and not the attempt's number: a crash replays the answer."""
        text = _text(assignment)
        agent = await self._registry.find_fitting(assignment.kind)
        if agent is None:
            raise Retry(f"No active agent can do a task of kind {assignment.kind}", _NOBODY_AGAIN_SECONDS)
        answer = await self._registry.ask(
            agent.id,
            input_text=text,
            owner_id=assignment.owner_id,
            key=f"{assignment.task_id}:answer",
            timeout_seconds=float(assignment.timeout_seconds),
        )
        return answer.as_document() | {"agent_id": agent.id, "agent_name": agent.name}


def _text(assignment: Assignment) -> str:
    payload = assignment.payload if isinstance(assignment.payload, dict) else {}
    title, description = payload.get("title"), payload.get("description", "")
    if not isinstance(title, str) or not title or not isinstance(description, str):
        raise Reject(INVALID_INPUT, "title must be a string, and description too where there is one")
    hours = payload.get("estimated_hours")
    estimate = f"\nEstimated at {hours:g} hours." if isinstance(hours, int | float) else ""
    return f"{_ASKED[assignment.kind]}\n{title}\n{description}{estimate}".strip()
