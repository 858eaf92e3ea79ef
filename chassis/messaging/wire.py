"""Message ↔ AMQP properties and headers, with CloudEvents names; pure.

What AMQP has a property for travels there (type, id, source as ``app_id``, whole seconds of the time); the rest are
headers ``cloudEvents:<attribute>``, as in the CloudEvents AMQP binding, and ``traceparent`` as in W3C's.
"""

from datetime import datetime

from pamqp.commands import Basic
from pamqp.common import FieldTable

from chassis.errors import Invalid
from chassis.messaging.message import Message

CONTENT_TYPE = "application/protobuf"
_PERSISTENT = 2
_SUBJECT, _SEQUENCE, _TIME = "cloudEvents:subject", "cloudEvents:sequence", "cloudEvents:time"
_TRACEPARENT = "traceparent"
_OURS = frozenset((_SUBJECT, _SEQUENCE, _TIME, _TRACEPARENT))
# Why and from where a message was parked.
PARKED_REASON, PARKED_QUEUE, PARKED_KEY = "mesh-parked-reason", "mesh-parked-queue", "mesh-parked-routing-key"


def to_properties(message: Message) -> Basic.Properties:
    """What the broker is given beside exchange, routing key and body."""
    return Basic.Properties(
        content_type=CONTENT_TYPE,
        delivery_mode=_PERSISTENT,
        message_id=message.id,
        timestamp=message.time,
        message_type=message.type,
        app_id=message.source,
        headers=_headers(message),
    )


def _headers(message: Message) -> FieldTable:
    headers: FieldTable = {**message.headers, _TIME: message.time.isoformat()}
    if message.subject:
        headers[_SUBJECT] = message.subject
    if message.sequence:
        headers[_SEQUENCE] = message.sequence
    if message.traceparent:
        headers[_TRACEPARENT] = message.traceparent
    return headers


def from_properties(exchange: str, routing_key: str, properties: Basic.Properties, body: bytes) -> Message:
    """The message as it was sent. Raises Invalid when it lacks what every message of the mesh has."""
    headers = properties.headers or {}
    if not properties.message_id or not properties.message_type:
        raise Invalid("The message has no id or no type", private=f"routing key {routing_key}")
    sequence = headers.get(_SEQUENCE, 0)
    if not isinstance(sequence, int):
        raise Invalid("The sequence is no number", private=f"routing key {routing_key}")
    return Message(
        exchange=exchange,
        routing_key=routing_key,
        type=properties.message_type,
        body=body,
        id=properties.message_id,
        time=_time(headers.get(_TIME), properties.timestamp, routing_key),
        source=properties.app_id or "",
        subject=str(headers.get(_SUBJECT, "")),
        sequence=sequence,
        traceparent=str(headers.get(_TRACEPARENT, "")),
        headers={name: str(value) for name, value in headers.items() if name not in _OURS},
    )


def _time(header: object, timestamp: datetime | None, routing_key: str) -> datetime:
    if isinstance(header, str):
        try:
            return datetime.fromisoformat(header)
        except ValueError as error:
            raise Invalid("The time is no time", private=f"routing key {routing_key}: {header}") from error
    if timestamp is None:
        raise Invalid("The message has no time", private=f"routing key {routing_key}")
    return timestamp


def parked(properties: Basic.Properties, *, reason: str, queue: str, routing_key: str) -> Basic.Properties:
    """The same properties with the reason why the message was parked and where it came from."""
    why = {PARKED_REASON: reason, PARKED_QUEUE: queue, PARKED_KEY: routing_key}
    return Basic.Properties(
        content_type=properties.content_type,
        delivery_mode=_PERSISTENT,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        message_type=properties.message_type,
        app_id=properties.app_id,
        headers={**(properties.headers or {}), **why},
    )
