"""The handler of kind `model.pull`: models fetched in the background, however long that takes."""

from collections.abc import Mapping
from typing import Any

from services.llm.model import Fetched
from services.llm.operations import Fetching
from services.llm.worker import payloads
from worker.handler import Assignment, Kind

PULL = "model.pull"
# All of what is known so far may not be all there is.
_MOST_TOLD = 0.99


class Pulling:
    """Fetches models. The payload is ``{"model"}``, the result ``{"model", "size_bytes"}``: what had to be fetched."""

    def __init__(self, fetching: Fetching) -> None:
        self._fetching = fetching

    def kinds(self) -> Mapping[str, Kind]:
        """What the runner is to announce."""
        return {PULL: Kind(handler=self.handle, max_attempts=5, timeout_seconds=6 * 3600)}

    async def handle(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt; another one goes on where this one stopped, because the server keeps what it has."""
        model = payloads.read_model(assignment.payload)
        most, size = 0.0, 0

        async def tell(step: Fetched) -> None:
            nonlocal most, size
            size = step.total_bytes
            # Layers are heard of one after the other, so the share may fall; what was told does not.
            most = max(most, min(_MOST_TOLD, step.done_bytes / step.total_bytes if step.total_bytes else 0.0))
            await assignment.progress(most, step.status)

        await self._fetching.fetch(model, tell)
        return {"model": model, "size_bytes": size}
