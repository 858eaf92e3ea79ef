"""Rows of deliveries as the model has them."""

import json
from datetime import UTC, datetime
from typing import Any

from services.tasks.model.webhooks import Delivery, DeliveryState, Facts, Parcel, Try
from services.tasks.ports import Render


def to_payload(row: Any, render: Render) -> bytes:
    """What was told first, or what is told now for the first time."""
    if row["payload"] is not None:
        payload: bytes = row["payload"]
        return payload
    return render(Facts(type=row["type"], at=row["at"], data=row["facts"], result=row["result"]))


def to_parcel(row: Any, payload: bytes) -> Parcel:
    """A row that is about to be taken."""
    return Parcel(
        delivery_id=row["delivery_id"],
        webhook_id=row["webhook_id"],
        number=row["takes"] + 1,
        url=row["url"],
        secrets=tuple(filter(None, (row["secret"], row["old_secret"]))),
        event_id=row["event_id"],
        type=row["type"],
        payload=payload,
        traceparent=row["traceparent"],
        failures=row["failures"],
        tries=_tries(row),
        lost=row["taken"],
    )


def to_delivery(row: Any, payload: bytes) -> Delivery:
    """A row as its owner sees it."""
    state = DeliveryState(row["state"])
    return Delivery(
        delivery_id=row["delivery_id"],
        webhook_id=row["webhook_id"],
        event_id=row["event_id"],
        type=row["type"],
        state=state,
        created_at=row["created_at"],
        next_at=row["due_at"],
        delivered_at=row["ended_at"] if state is DeliveryState.DELIVERED else None,
        body=payload,
        tries=_tries(row),
    )


def to_log(tries: tuple[Try, ...]) -> str:
    """The log as JSON."""
    return json.dumps(
        [
            {"at": one.at.timestamp(), "status": one.status, "duration_ms": one.duration_ms, "error": one.error}
            for one in tries
        ]
    )


def _tries(row: Any) -> tuple[Try, ...]:
    return tuple(
        Try(
            at=datetime.fromtimestamp(line["at"], UTC),
            status=line.get("status", 0),
            duration_ms=line.get("duration_ms", 0),
            error=line["error"],
        )
        for line in row["tries"]
    )
