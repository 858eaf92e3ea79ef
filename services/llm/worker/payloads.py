"""What tasks ask of models, and how answers are told as results: JSON ↔ model, pure."""

from typing import Any

from services.llm.model import Answer, Chat, Message
from worker.handler import INVALID_INPUT, Reject

MOST_ITEMS = 500
# Where a conversation does not say, as in the native API: so many were reserved of its owner's tokens.
_ANSWER_TOKENS = 2048
_ROLES = ("system", "user", "assistant")


def read_chat(payload: Any, *, owner_id: str, key: str) -> Chat:
    """A conversation: ``{"message" or "messages": [{"role", "content"}], "model"?, "temperature"?, "max_tokens"?,
    "top_p"?, "seed"?, "stop"?: [text]}``. Raises Reject.
    """
    body = _object(payload, "The payload")
    max_tokens = _of(body, "max_tokens", int)
    return Chat(
        model=_of(body, "model", str) or "",
        messages=_messages(body),
        temperature=_of(body, "temperature", float, int),
        max_tokens=_ANSWER_TOKENS if max_tokens is None else max_tokens,
        top_p=_of(body, "top_p", float, int),
        seed=_of(body, "seed", int),
        stop=_texts(body, "stop"),
        user_id=owner_id,
        idempotency_key=key,
    )


def read_items(payload: Any) -> list[Any]:
    """``{"items": [conversation]}``. Raises Reject."""
    items = _object(payload, "The payload").get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= MOST_ITEMS:
        raise _wrong(f"items must be a list of 1 to {MOST_ITEMS} conversations")
    return items


def read_model(payload: Any) -> str:
    """``{"model": name}``. Raises Reject."""
    model = _object(payload, "The payload").get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model must be a name")
    return model


def answered(answer: Answer) -> dict[str, Any]:
    """An answer in the words of the native API."""
    first = answer.choices[0] if answer.choices else None
    return {
        "response": first.message.content if first else "",
        "model": answer.model,
        "provider": answer.provider,
        "finish_reason": first.finish_reason if first else "",
        "tokens_used": answer.usage.input_tokens + answer.usage.output_tokens,
    }


def _messages(body: dict[str, Any]) -> tuple[Message, ...]:
    if ("message" in body) is ("messages" in body):
        raise _wrong("There must be either a message or messages")
    if "message" in body:
        return (Message(role="user", content=_of(body, "message", str) or ""),)
    turns = body["messages"]
    if not isinstance(turns, list):
        raise _wrong("messages must be a list")
    return tuple(_turn(_object(turn, "Each message")) for turn in turns)


def _turn(turn: dict[str, Any]) -> Message:
    role, content = turn.get("role"), turn.get("content")
    if role not in _ROLES or not isinstance(content, str):
        raise _wrong(f"Each message has a role ({', '.join(_ROLES)}) and a text as content")
    return Message(role=role, content=content)


def _texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = body.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _wrong(f"{name} must be a list of texts")
    return tuple(texts)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} must be an object")
    return value


def _of(body: dict[str, Any], name: str, *kinds: type) -> Any:
    """A field, or None. A truth value is no number here."""
    value = body.get(name)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    raise _wrong(f"{name} must be {'a number' if int in kinds else 'a text'}")


def _wrong(message: str) -> Reject:
    return Reject(INVALID_INPUT, message)
