"""What exists on the broker: two exchanges, the parking queue, and the queues that services ask for.

Declaring is idempotent and happens again after every connect, so a broker that lost its data gets everything back. The
same code serves RabbitMQ 3.10 to 4.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from aiormq import Channel
from pamqp.common import FieldTable

from chassis.messaging.message import EVENTS, WORK

PARKING = "mesh.parking"
QueueType = Literal["classic", "quorum"]
Version = tuple[int, ...]

_EXCHANGES: Mapping[str, str] = MappingProxyType({WORK: "direct", EVENTS: "topic"})
_PRIORITY_CLASSES = 4
# Since 4.0 a quorum queue drops a message after 20 returns unless told otherwise. Ours may be returned as often as the
# store behind the consumer is away; what still reaches this number goes to the parking queue.
_DELIVERY_LIMIT = 1000
_DELIVERY_LIMIT_SINCE = (4, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue and how messages reach it.

    Attributes:
        name: as the broker knows it; an exclusive queue gets a suffix for each connection, because the one of a dead
            connection may still stand.
        exchange: where it is bound; empty for none.
        bindings: routing keys, or patterns of a topic exchange.
        durable: survives a restart of the broker.
        exclusive: belongs to one connection and goes with it.
        queue_type: ``quorum`` for a cluster of three; exclusive queues are always classic.
        arguments: further ones of ``queue.declare``.
    """

    name: str
    exchange: str = ""
    bindings: tuple[str, ...] = ()
    durable: bool = True
    exclusive: bool = False
    queue_type: QueueType = "classic"
    arguments: Mapping[str, str | int] = field(default_factory=dict)

    def declare_arguments(self, version: Version) -> FieldTable:
        """The arguments for a broker of `version`; ``x-delivery-limit`` is a trap before 4.0 and not sent there."""
        arguments: FieldTable = dict(self.arguments)
        if self.exclusive:
            return arguments
        if self.queue_type == "quorum":
            arguments["x-queue-type"] = "quorum"
            if version >= _DELIVERY_LIMIT_SINCE:
                arguments["x-delivery-limit"] = _DELIVERY_LIMIT
                arguments["x-dead-letter-exchange"] = ""
                arguments["x-dead-letter-routing-key"] = PARKING
        return arguments


def work_queue(group: str, priority_class: int, queue_type: QueueType = "classic") -> QueueSpec:
    """The queue of one kind group and one priority class: 0 is served most, 3 least."""
    if not 0 <= priority_class < _PRIORITY_CLASSES:
        raise ValueError(f"priority class {priority_class} is not one of 0 to {_PRIORITY_CLASSES - 1}")
    name = f"work.{group}.p{priority_class}"
    return QueueSpec(name=name, exchange=WORK, bindings=(name,), queue_type=queue_type)


def work_queues(group: str, queue_type: QueueType = "classic") -> tuple[QueueSpec, ...]:
    """All four queues of a kind group, most urgent first."""
    return tuple(work_queue(group, priority_class, queue_type) for priority_class in range(_PRIORITY_CLASSES))


def events_queue(
    name: str, patterns: Sequence[str], *, exclusive: bool = False, queue_type: QueueType = "classic"
) -> QueueSpec:
    """A queue of events whose ``<service>.<noun>.<verb>`` fits a pattern (``*`` one word, ``#`` any number).

    Shared and durable for a service that must see each event once; exclusive for a process that wants its own copy of
    what happens while it is connected.
    """
    return QueueSpec(
        name=name,
        exchange=EVENTS,
        bindings=tuple(patterns),
        durable=not exclusive,
        exclusive=exclusive,
        queue_type=queue_type,
    )


async def declare_exchanges(channel: Channel) -> None:
    """Declares the exchanges and the parking queue."""
    for name, kind in _EXCHANGES.items():
        await channel.exchange_declare(name, exchange_type=kind, durable=True)
    await channel.queue_declare(PARKING, durable=True)


async def declare_queue(channel: Channel, spec: QueueSpec, version: Version, suffix: str) -> str:
    """Declares and binds a queue, and returns its name on the broker.

    Raises aiormq.exceptions.ChannelPreconditionFailed when the queue exists with other arguments; the channel is then
    closed.
    """
    name = f"{spec.name}.{suffix}" if spec.exclusive else spec.name
    await channel.queue_declare(
        name,
        durable=spec.durable,
        exclusive=spec.exclusive,
        auto_delete=spec.exclusive,
        arguments=spec.declare_arguments(version),
    )
    await bind_queue(channel, spec, name)
    return name


async def bind_queue(channel: Channel, spec: QueueSpec, name: str) -> None:
    """Binds an existing queue as its spec says."""
    for key in spec.bindings if spec.exchange else ():
        await channel.queue_bind(name, spec.exchange, key)


def parse_version(value: object) -> Version:
    """``b"3.10.8"`` as (3, 10, 8); what follows the digits of a part is dropped, as in ``4.3.0-rc.1``."""
    written = value.decode() if isinstance(value, bytes) else str(value)
    parts = []
    for part in written.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
        if digits != part:
            break
    return tuple(parts)
