"""What travels through RabbitMQ: one frozen shape in both directions."""

from dataclasses import dataclass, field
from datetime import datetime

WORK = "mesh.work"
EVENTS = "mesh.events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message with its CloudEvents attributes, which travel as AMQP properties and headers.

    Attributes:
        exchange: ``WORK`` or ``EVENTS``.
        routing_key: ``work.<group>.p<class>`` or ``<service>.<noun>.<verb>``.
        type: full name of the protobuf message in `body`, as in ``mesh.tasks.v1.TaskChanged``.
        body: the serialized protobuf message.
        id: unique; the same again when the message is published again.
        time: when what it tells happened, UTC.
        source: the service that says it.
        subject: id of the thing it is about.
        sequence: per subject, gap-free from 1; 0 where there is no order.
        traceparent: W3C context of the request it belongs to.
    """

    exchange: str
    routing_key: str
    type: str
    body: bytes
    id: str
    time: datetime
    source: str
    subject: str = ""
    sequence: int = 0
    traceparent: str = ""
    headers: dict[str, str] = field(default_factory=dict)
