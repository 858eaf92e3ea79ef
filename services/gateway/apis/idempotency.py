"""The Idempotency-Key header: a quoted string as the draft has it, or the bare word that most clients send."""

import re
from typing import Any

from chassis.errors import Invalid

IDEMPOTENCY_KEY = b"idempotency-key"

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-\[\]-~]+")
_LONGEST = 255
# As the OpenAPI document shows it.
IDEMPOTENCY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A string of 1 to 255 visible ASCII characters, quoted or bare. The same key with the same body has "
    "no second effect; with another body it is refused (422), and while the first is under way too (409).",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-\\[\\]-~]+$"},
}


def idempotency_key(value: str) -> str:
    """The key that a header's value names, empty without one. Raises Invalid unless it is 1 to 255 ASCII letters."""
    if not value:
        return ""
    value = value.strip()
    if quoted := _QUOTED.fullmatch(value):
        key = re.sub(r'\\(["\\])', r"\1", quoted[1])
    else:
        key = value if _BARE.fullmatch(value) else ""
    if not 1 <= len(key) <= _LONGEST:
        raise Invalid(
            "Idempotency-Key is a string of 1 to 255 visible ASCII characters, quoted or bare",
            details={"field": "Idempotency-Key"},
        )
    return key
