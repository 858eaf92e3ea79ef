"""What kinds of tasks ask of whoever submits them that routes of their own exist for: a task is no way around those.

Reads what such a task asks of a model; knows no route.
"""

from typing import Any

import orjson
from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Forbidden, Invalid
from services.gateway.apis.llm import V1_ANSWER_TOKENS, text_tokens
from services.gateway.identity.model import ACCESS_SCOPE, Principal

CHAT, BATCH, PULL = "llm.chat", "llm.batch", "model.pull"
# What else than the scope ``tasks`` is needed.
_SCOPES = {CHAT: "chat", BATCH: "chat", PULL: "models"}


def check_kind(kind: str, principal: Principal) -> None:
    """Raises Forbidden where the kind's own route would."""
    scope = _SCOPES.get(kind, ACCESS_SCOPE)
    if kind in _SCOPES and not {ACCESS_SCOPE, scope} & set(principal.scopes):
        raise Forbidden(f"The credential lacks the scope {scope}")
    if kind == PULL and not principal.is_admin:
        raise Forbidden("Administrative privileges required")


def check_schedulable(kind: str, principal: Principal) -> None:
    """Raises Forbidden as `check_kind`, and Invalid for what takes tokens: when a schedule takes them, nobody is there
    to be refused.
    """
    check_kind(kind, principal)
    if kind in {CHAT, BATCH}:
        raise Invalid(
            f"Tasks of the kind {kind} cannot be scheduled, because they count against the tokens a minute of whoever "
            "submits them; submit each with POST /api/v1/tasks, for a later time with run_at",
            code="KIND_NOT_SCHEDULABLE",
            details={"field": "task.task_type"},
        )


def tokens_of(task: tasks_pb2.SubmitRequest | tasks_pb2.Task) -> int:
    """How many tokens a task may use, as the chats count them; 0: it uses none."""
    if task.kind not in {CHAT, BATCH}:
        return 0
    payload = _object(orjson.loads(task.payload or b"null"))
    if task.kind == CHAT:
        return _tokens(payload)
    items = payload.get("items")
    return sum(_tokens(_object(item)) for item in items) if isinstance(items, list) else _tokens(payload)


def _tokens(conversation: dict[str, Any]) -> int:
    """Of a conversation that is none nothing will be asked, and what was reserved for it is little."""
    most = conversation.get("max_tokens")
    asked = conversation.get("messages" if "messages" in conversation else "message")
    answer = most if type(most) is int and most > 0 else V1_ANSWER_TOKENS
    return text_tokens(len(orjson.dumps(asked))) + answer


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
