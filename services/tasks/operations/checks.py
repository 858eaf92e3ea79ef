"""What is refused before anything is written: fields out of range, documents that are not clean JSON, foreign ids."""

import hashlib
import re
from datetime import UTC, datetime, timedelta

import orjson

from chassis.errors import Invalid
from services.tasks.model.states import Priority
from services.tasks.model.task import Draft, Kind, Submission, TaskError

MOST_PAYLOAD_BYTES = 256 * 1024
MOST_LABEL_BYTES = 16 * 1024
MOST_RESULT_BYTES = 4 * 1024 * 1024
MOST_DEPTH = 64
MOST_ATTEMPTS = 100
MOST_TIMEOUT_SECONDS = 7 * 24 * 3600
_MOST_AHEAD = timedelta(days=366)
_MOST_NAME = 200
_MOST_TEXT = 4000

_TASK_ID = re.compile(r"task_[0-9A-HJKMNP-TV-Z]{26}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,99}\Z")
_GROUP = re.compile(r"[a-z0-9][a-z0-9_\-]{0,49}\Z")
_OPENING = re.compile(rb"[\[{]")
_NUL_ESCAPE = b"\\u0000"


def is_task_id(value: str) -> bool:
    """Whether it can be a task's id at all; what cannot needs no look-up."""
    return _TASK_ID.match(value) is not None


def check_draft(draft: Draft, kind: Kind, task_id: str, now: datetime) -> Submission:
    """The submission that a draft of a known kind makes. Raises Invalid with the field in its details."""
    check_text("owner_id", draft.owner_id, required=True)
    check_text("idempotency_key", draft.idempotency_key)
    check_document("payload", draft.payload, MOST_PAYLOAD_BYTES)
    if draft.labels and not isinstance(check_document("labels", draft.labels, MOST_LABEL_BYTES), dict):
        raise _bad("labels", "Labels are a JSON object")
    if draft.priority not in {0, *Priority}:
        raise _bad("priority", "Unknown priority")
    if draft.max_attempts > MOST_ATTEMPTS:
        raise _bad("max_attempts", f"At most {MOST_ATTEMPTS} attempts")
    if draft.timeout_seconds > MOST_TIMEOUT_SECONDS:
        raise _bad("timeout_seconds", f"At most {MOST_TIMEOUT_SECONDS} seconds")
    _check_times(draft, now)
    return Submission(
        task_id=task_id,
        owner_id=draft.owner_id,
        kind=kind.kind,
        group=kind.group,
        priority=Priority(draft.priority) if draft.priority else Priority.NORMAL,
        payload=draft.payload,
        labels=draft.labels,
        max_attempts=draft.max_attempts or kind.max_attempts,
        timeout_seconds=draft.timeout_seconds or kind.timeout_seconds,
        run_at=draft.run_at,
        deadline_at=draft.deadline_at,
        traceparent=draft.traceparent,
        idempotency_key=draft.idempotency_key,
        fingerprint=_fingerprint(draft) if draft.idempotency_key else b"",
    )


def check_document(field: str, value: bytes, most_bytes: int) -> object:
    """The parsed document. Raises Invalid unless it is JSON in clean UTF-8, not too large or deep, and without NUL."""
    if len(value) > most_bytes:
        raise _bad(field, f"At most {most_bytes} bytes", code="PAYLOAD_TOO_LARGE")
    try:
        # Strict: no NaN, no lone surrogates, no broken UTF-8, and an error of its own for absurd depth.
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _bad(field, f"Not a JSON document: {error.msg}") from error
    # Nothing is walked unless it could be too deep, or could hold a NUL, which only comes in as an escape.
    if len(_OPENING.findall(value)) > MOST_DEPTH or _NUL_ESCAPE in value:
        _walk(field, parsed)
    return parsed


def check_text(field: str, value: str, *, required: bool = False, most: int = _MOST_NAME) -> None:
    """Raises Invalid for text that is missing, too long, or holds a NUL, which Postgres cannot keep."""
    if required and not value:
        raise _bad(field, "It must not be empty")
    if len(value) > most or "\x00" in value:
        raise _bad(field, f"Text of at most {most} characters without NUL")


def check_kind(kind: Kind) -> None:
    """Raises Invalid for a kind that a worker may not announce."""
    if not _NAME.match(kind.kind):
        raise _bad("kind", "Kinds are letters, digits and _.:-, at most 100 of them")
    if not _GROUP.match(kind.group):
        raise _bad("group", "Groups are small letters, digits, _ and -, at most 50 of them")
    if not 1 <= kind.max_attempts <= MOST_ATTEMPTS:
        raise _bad("default_max_attempts", f"Between 1 and {MOST_ATTEMPTS}")
    if not 1 <= kind.timeout_seconds <= MOST_TIMEOUT_SECONDS:
        raise _bad("default_timeout_seconds", f"Between 1 and {MOST_TIMEOUT_SECONDS}")


def clean_error(error: TaskError) -> TaskError:
    """A worker's error as it can be kept: handlers put anything into their messages."""
    return TaskError(code=clean_text(error.code, _MOST_NAME) or "HANDLER_ERROR", message=clean_text(error.message))


def clean_text(value: str, most: int = _MOST_TEXT) -> str:
    """Text without NUL, cut to a length."""
    return value[:most].replace("\x00", "\ufffd")


def _check_times(draft: Draft, now: datetime) -> None:
    for field, at in (("run_at", draft.run_at), ("deadline_at", draft.deadline_at)):
        if at is not None and at > now + _MOST_AHEAD:
            raise _bad(field, "At most a year ahead")
    # A start that lies in the past means "now", also after a slow way here; a deadline that does means nothing.
    if draft.deadline_at is not None and draft.deadline_at <= max(now, draft.run_at or now):
        raise _bad("deadline_at", "It must lie ahead, and after run_at")


def _fingerprint(draft: Draft) -> bytes:
    digest = hashlib.sha256()
    for part in (
        draft.kind.encode(),
        draft.payload,
        draft.labels,
        str((draft.priority, draft.max_attempts, draft.timeout_seconds)).encode(),
        _stamp(draft.run_at),
        _stamp(draft.deadline_at),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _stamp(at: datetime | None) -> bytes:
    return b"" if at is None else at.astimezone(UTC).isoformat().encode()


def _walk(field: str, document: object) -> None:
    level: list[object] = [document]
    for _ in range(MOST_DEPTH):
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, dict) for key in item]
        if any("\x00" in text for text in texts):
            raise _bad(field, "A NUL character")
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise _bad(field, f"Nested deeper than {MOST_DEPTH} levels")


def _parts(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _bad(field: str, message: str, code: str = "") -> Invalid:
    return Invalid(f"{field}: {message}", code=code, details={"field": field})
