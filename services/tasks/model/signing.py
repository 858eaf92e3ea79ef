"""What is posted to a webhook: the payload in its one canonical form, the signature in it, and those in the headers.

The form is RFC 8785's, so that who takes the signature out of a body that was parsed can write down what was signed.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import rfc8785
from standardwebhooks import Webhook as Signer

from chassis.errors import Invalid
from services.tasks.model.webhooks import TASK_COMPLETED, Facts

# What receivers may count on: Standard Webhooks advises less than 20 KB.
MOST_BODY_BYTES = 20_000
# A result that is longer is not looked at: no form of it would fit.
MOST_RESULT_BYTES = 19_000
# ,"signature":"sha256=<64 digits>"
_MOST_PAYLOAD_BYTES = MOST_BODY_BYTES - 86
_PREFIX = "whsec_"
_SECRET_BYTES = 32
_LEAST_SECRET_BYTES, _MOST_SECRET_BYTES = 24, 64
# What every receiver's numbers can hold (RFC 8785 knows no others).
_MOST_INTEGER = 2**53 - 1


def make_secret() -> str:
    """A new secret."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def check_secret(secret: str) -> str:
    """Raises Invalid (``WEBHOOK_SECRET``) unless it is ``whsec_`` and base64 of 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not _LEAST_SECRET_BYTES <= len(key) <= _MOST_SECRET_BYTES:
        raise Invalid(
            f"secret: {_PREFIX} and base64 of {_LEAST_SECRET_BYTES} to {_MOST_SECRET_BYTES} bytes",
            code="WEBHOOK_SECRET",
            details={"field": "secret"},
        )
    return secret


def parse(document: bytes) -> Any:
    """A document with its integers as they are, however long."""
    return json.loads(document)


def payload_of(event: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    """``{"event", "timestamp", "data"}`` in canonical form; integers beyond 2^53 become strings, which none bends."""
    moment = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return rfc8785.dumps({"event": event, "timestamp": moment, "data": _exact(data)})


def payload_of_task(facts: Facts) -> bytes:
    """The payload about a task that has ended. A result that does not fit is left out, and the data say where it is."""
    if facts.result is None:
        return _without_result(facts)
    try:
        data = {**facts.data, "result": parse(facts.result), "result_omitted": False}
        return fit(payload_of(facts.type, facts.at, data))
    except (Invalid, ValueError):
        # Too long, or with a number of thousands of digits: the owner's own question for it brings it whole.
        return _without_result(facts)


def fit(payload: bytes) -> bytes:
    """Raises Invalid (``PAYLOAD_TOO_LARGE``) when its body would be too long."""
    if len(payload) > _MOST_PAYLOAD_BYTES:
        raise Invalid(f"At most {_MOST_PAYLOAD_BYTES} bytes in canonical form", code="PAYLOAD_TOO_LARGE")
    return payload


def _without_result(facts: Facts) -> bytes:
    omitted = facts.type == TASK_COMPLETED
    data: dict[str, object] = {**facts.data, "result": None, "result_omitted": omitted}
    if omitted:
        data["result_path"] = f"/api/v1/tasks/{facts.data['task_id']}/result"
    return payload_of(facts.type, facts.at, data)


def body_of(payload: bytes, secret: str) -> bytes:
    """The payload with its signature as the last member."""
    digest = hmac.new(_key(secret), payload, hashlib.sha256).hexdigest()
    return b'%s,"signature":"sha256=%s"}' % (payload[:-1], digest.encode())


def headers_of(event_id: str, at: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """The headers of Standard Webhooks for a try at this moment: a signature for each secret."""
    text = body.decode()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(key).sign(event_id, at, text) for key in keys),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX))


def _exact(value: Any) -> Any:
    """The value with integers as strings that canonical JSON has no number for."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MOST_INTEGER:
        return str(value)
    if isinstance(value, Mapping):
        return {name: _exact(inner) for name, inner in value.items()}
    return [_exact(inner) for inner in value] if isinstance(value, list) else value
