"""What ids look like. An id of another look names nothing, so nobody needs to be asked for it. Pure."""

import re

_TASK = re.compile(r"task_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_SCHEDULE = re.compile(r"sched_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_WEBHOOK = re.compile(r"hook_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_DELIVERY = re.compile(r"dlv_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A UUID, or the name of an agent that is there from the start.
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9]{1,64}")


def is_task_id(text: str) -> bool:
    """``task_`` and a ULID."""
    return _TASK.fullmatch(text) is not None


def is_schedule_id(text: str) -> bool:
    """``sched_`` and a ULID."""
    return _SCHEDULE.fullmatch(text) is not None


def is_webhook_id(text: str) -> bool:
    """``hook_`` and a ULID."""
    return _WEBHOOK.fullmatch(text) is not None


def is_delivery_id(text: str) -> bool:
    """``dlv_`` and a ULID."""
    return _DELIVERY.fullmatch(text) is not None


def is_uuid(text: str) -> bool:
    """In lower case, with hyphens."""
    return _UUID.fullmatch(text) is not None


def is_agent_id(text: str) -> bool:
    """A UUID, or a name such as ``task-coordinator``."""
    return _AGENT.fullmatch(text) is not None


def is_key_id(text: str) -> bool:
    """The public part of an API key."""
    return _KEY.fullmatch(text) is not None
