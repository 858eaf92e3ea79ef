"""Orders: what a caller wants executed, checked, and which agents that means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chassis.errors import Conflict, Invalid
from services.agents.model.agent import AgentStatus, Measured

DEFAULT_TIMEOUT_SECONDS = 300
_MOST_TIMEOUT_SECONDS = 86_400
_MOST_AGENTS = 1000
_MOST_INPUT_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a caller wants executed, checked.

    Attributes:
        agent_ids: distinct, in order; empty for every active agent.
        idempotency_key: empty for none.
    """

    owner_id: str
    agent_ids: tuple[str, ...]
    parallel: bool
    timeout_seconds: int
    input: str
    idempotency_key: str

    @property
    def fingerprint(self) -> str:
        """Tells a repeated request from a key that is used again for another one."""
        return repr((self.agent_ids, self.parallel, self.timeout_seconds, self.input))


def make_order(
    *,
    owner_id: str,
    agent_ids: Sequence[str],
    parallel: bool,
    timeout_seconds: int,
    input_text: str,
    idempotency_key: str,
) -> Order:
    """Checks what a caller wants. `timeout_seconds` 0 means 300. Raises Invalid that names the field."""
    if timeout_seconds > _MOST_TIMEOUT_SECONDS:
        raise Invalid(
            f"timeout_seconds must be between 1 and {_MOST_TIMEOUT_SECONDS}", details={"field": "timeout_seconds"}
        )
    if "\x00" in input_text or len(input_text) > _MOST_INPUT_CHARACTERS:
        raise Invalid(
            f"input must have at most {_MOST_INPUT_CHARACTERS} characters, none of them NUL", details={"field": "input"}
        )
    distinct = tuple(dict.fromkeys(agent_ids))
    if len(distinct) > _MOST_AGENTS:
        raise Invalid(f"agent_ids must be at most {_MOST_AGENTS}", details={"field": "agent_ids"})
    return Order(
        owner_id=owner_id,
        agent_ids=distinct,
        parallel=parallel,
        timeout_seconds=timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
        input=input_text,
        idempotency_key=idempotency_key,
    )


def choose(order: Order, found: Iterable[Measured]) -> tuple[Measured, ...]:
    """The agents of an order, in its order, out of those that were found. Raises Invalid."""
    by_id = {one.agent.id: one for one in found}
    for agent_id in order.agent_ids:
        if agent_id not in by_id:
            raise Invalid("Agent not found", code="AGENT_NOT_FOUND", details={"agent_id": agent_id})
        if by_id[agent_id].agent.status is not AgentStatus.ACTIVE:
            raise Invalid("The agent is not active", code="AGENT_INACTIVE", details={"agent_id": agent_id})
    chosen = tuple(by_id[agent_id] for agent_id in order.agent_ids) if order.agent_ids else tuple(by_id.values())
    if not chosen:
        raise Invalid("No agent is active", code="NO_ACTIVE_AGENTS")
    if len(chosen) > _MOST_AGENTS:
        raise Invalid(f"At most {_MOST_AGENTS} agents can be executed at once", code="TOO_MANY_AGENTS")
    return chosen


def key_reused() -> Conflict:
    """An idempotency key that belongs to another request."""
    return Conflict("The idempotency key was used for another request", code="IDEMPOTENCY_MISMATCH")
