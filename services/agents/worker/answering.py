"""The handler of kind `agent.run`: one agent asked once, whatever happens to the attempt."""

from collections.abc import Mapping
from typing import Any

from services.agents.operations.registry import Registry
from worker.handler import INVALID_INPUT, Assignment, Kind, Reject

AGENT_RUN = "agent.run"
GROUP = "agents"


class Answering:
    """Runs agents. The payload is ``{"agent_id", "input"?, "run_id"?}``, the result ``{"output", "model", "tokens"}``.

    The question carries the run's id as its key and not the attempt's number: a crash after the answer replays it.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def kinds(self) -> Mapping[str, Kind]:
        """What the runner is to announce."""
        return {AGENT_RUN: Kind(handler=self.handle, max_attempts=3, timeout_seconds=300)}

    async def handle(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt."""
        payload = assignment.payload if isinstance(assignment.payload, dict) else {}
        agent_id, input_text = payload.get("agent_id"), payload.get("input", "")
        if not isinstance(agent_id, str) or not isinstance(input_text, str):
            raise Reject(INVALID_INPUT, "agent_id must be a string, and input too where there is one")
        run_id = payload.get("run_id") or assignment.task_id
        answer = await self._registry.ask(
            agent_id,
            input_text=input_text,
            owner_id=assignment.owner_id,
            key=f"{run_id}:answer",
            timeout_seconds=float(assignment.timeout_seconds),
        )
        return answer.as_document()
