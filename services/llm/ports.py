"""Everything this service needs from the world, on one page."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.llm.model import Answer, Charge, Chat, Fetched, Model, ModelUsage, Piece


class Provider(Protocol):
    """Somebody who answers conversations.

    Every method raises Unavailable when the provider fails (code ``PROVIDER_ERROR``, Ollama's is ``OLLAMA_ERROR``),
    DeadlineExceeded when it is silent for too long, Exhausted when it limits us, and Invalid when it refuses the
    request itself.
    """

    @property
    def name(self) -> str: ...

    @property
    def default_model(self) -> str:
        """The one to prefer when only the provider is named; it may not have it."""

    async def models(self) -> tuple[Model, ...]:
        """What it has now."""

    async def chat(self, chat: Chat, model: str) -> Answer:
        """Answers as `model`, in one piece."""

    def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        """Answers as `model`, as it is produced.

        The last piece has the usage. An answer that breaks off raises; it never just ends. Closing the generator, or
        cancelling who waits for it, ends the provider's work at once.
        """


class Library(Protocol):
    """A provider's server that can fetch further models."""

    def pull(self, model: str) -> AsyncGenerator[Fetched, None]:
        """Fetches a model, and tells how far it is; when it ends by itself the model is there. Closing the generator
        stops the work; what was fetched already is kept for the next time.

        Raises as a Provider does, and Invalid (code ``MODEL_NOT_FOUND``) for a model that nobody publishes.
        """


class Ledger(Protocol):
    """Where charges go. Recording costs the request nothing: it never waits and never fails."""

    def record(self, charge: Charge) -> None: ...


class UsageBook(Protocol):
    """Where charges are looked up. Raises Unavailable when the store is away."""

    async def totals(self, user_id: str, since: datetime | None) -> tuple[ModelUsage, ...]:
        """By model, for one user or (empty) for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The key is ours until `token` is given back or its lease ends."""

    token: str


class Answers(Protocol):
    """Answers kept under an owner's idempotency keys. Raises Unavailable when the store is away."""

    async def hold(self, owner: str, key: str, fingerprint: bytes) -> Held | Answer | None:
        """Takes the key, or returns the answer that is kept under it; None while somebody else works on it.

        Raises Conflict (code ``IDEMPOTENCY_MISMATCH``) when the key was used for another request.
        """

    async def renew(self, owner: str, key: str, held: Held) -> None:
        """Begins the lease anew, unless the key is no longer ours. Logs instead of raising."""

    async def keep(self, owner: str, key: str, held: Held, answer: Answer) -> None:
        """Keeps the answer, unless the key is no longer ours. Logs instead of raising: the answer is there already."""

    async def free(self, owner: str, key: str, held: Held) -> None:
        """Gives the key back after a failure, so that the request can be repeated. Logs instead of raising."""
