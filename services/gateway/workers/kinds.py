"""Which kinds an external worker may do, and in which queue group each travels. Pure.

A pointer does not tell the kind it is of, so whoever takes part in a group does all its kinds. External workers may do
any mix of kinds; so each of their kinds has a group of its own, and those that the mesh does itself are not theirs.
"""

import hashlib
import re
from collections.abc import Iterable

from mesh.tasks.v1 import tasks_pb2

from services.gateway.workers.frames import Offer, ProtocolError

OWN = frozenset({"sentiment_analysis", "automation", "feature", "bug", "docs", "test"})
_OWN_PREFIXES = ("llm.", "model.", "agent.", "workflow.")
_NOT_IN_GROUPS = re.compile(r"[^a-z0-9_-]+")
_BY_NAME = "worker."
_LONGEST_PART = 34
_DIGEST_LETTERS = 10


def group_of(kind: str) -> str:
    """The group of a kind that external workers do: readable, and no other kind's."""
    digest = hashlib.sha256(kind.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"ext-{_NOT_IN_GROUPS.sub('-', kind.lower())[:_LONGEST_PART]}-{digest}"


def default_kind(worker_id: str) -> str:
    """What a worker does that does not say what it does: tasks that are meant for it by name."""
    return f"{_BY_NAME}{worker_id}"


def is_by_name(kind: str) -> bool:
    """Whether it is a kind that only the worker of that name does."""
    return kind.startswith(_BY_NAME)


def check(offers: Iterable[Offer], workers: Iterable[tasks_pb2.WorkerSummary]) -> None:
    """Raises ProtocolError (``KIND_TAKEN``) for a kind that the mesh does itself, or a process of it."""
    taken = {kind for worker in workers if not worker.external for kind in worker.kinds}
    for offer in offers:
        if offer.kind in OWN or offer.kind in taken or offer.kind.startswith(_OWN_PREFIXES):
            raise ProtocolError("KIND_TAKEN", f"{offer.kind} is done by the mesh itself")


def specs(offers: Iterable[Offer]) -> list[tasks_pb2.KindSpec]:
    """The offers as the tasks service takes them."""
    return [
        tasks_pb2.KindSpec(
            kind=offer.kind,
            group=group_of(offer.kind),
            default_max_attempts=offer.max_attempts,
            default_timeout_seconds=offer.timeout_seconds,
            max_running=offer.max_running,
        )
        for offer in offers
    ]
