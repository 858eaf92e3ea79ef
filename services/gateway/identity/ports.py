"""What identity needs from the world: rows, password hashes, signatures. Each Protocol is a page's worth at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.gateway.identity.model import ApiKey, RefreshToken, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that ends the validity of verified credentials: of a user, of one session, or of one key."""

    id: int
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed since a horizon, and the horizon to ask from next time."""

    horizon: int
    changes: tuple[Change, ...]


class Users(Protocol):
    """Accounts. Every method raises Unavailable when the store is away."""

    async def add(self, user: User, password_hash: str) -> None:
        """Raises UsernameTaken or EmailTaken."""

    async def get(self, user_id: str) -> User | None: ...

    async def page(self, offset: int, limit: int) -> tuple[Sequence[User], int]:
        """Oldest first, and how many there are in all."""

    async def set_role(self, user_id: str, role: str) -> User | None:
        """The account with its new role, for all its credentials everywhere; None when there is none.

        Raises LastAdmin, also for one of two who take the role from each other.
        """

    async def for_login(self, username: str) -> tuple[User, str] | None:
        """The account with that name, in whatever case, and its password hash."""

    async def logged_in(self, user_id: str, at: datetime) -> None: ...

    async def set_password(self, user_id: str, password_hash: str, at: datetime) -> None:
        """Also ends the user's sessions, and with them all tokens, everywhere."""

    async def renew_hash(self, user_id: str, before: str, after: str) -> bool:
        """The same password hashed anew with today's parameters; sessions go on. False: it is not `before` any more."""


class Sessions(Protocol):
    """Logins and their chain of refresh tokens."""

    async def open(self, token: RefreshToken, token_hash: bytes, created_at: datetime, password_hash: str) -> bool:
        """Begins a session with its first refresh token. Sessions of the user that nobody can refresh any more go.

        False, and no session, when the password has another hash by now: whoever changed it ended all sessions, and
        one that was verified against the old one must not begin behind that.
        """

    async def find(self, token_id: str, token_hash: bytes) -> RefreshToken | None: ...

    async def rotate(self, used_id: str, successor: RefreshToken, token_hash: bytes, at: datetime) -> bool:
        """Spends one token and adds the next, if nobody else has spent it; False if somebody has."""

    async def revoke(self, session_id: str, at: datetime) -> None: ...

    async def user_of(self, session_id: str, user_id: str) -> User | None:
        """The active user of a session that is not revoked."""


class ApiKeys(Protocol):
    """API keys at rest."""

    async def add(self, key: ApiKey, secret_hash: bytes) -> None: ...

    async def list_of(self, user_id: str) -> Sequence[ApiKey]:
        """Newest first, revoked ones too."""

    async def revoke(self, key_id: str, user_id: str | None, at: datetime) -> bool:
        """False when there is no such key (of that user, when one is given)."""

    async def find(self, key_id: str) -> tuple[ApiKey, bytes, User] | None:
        """A key with its secret's hash and its user."""


class ChangeFeed(Protocol):
    """News of credentials that are no longer what they were."""

    async def since(self, horizon: int) -> Changes:
        """Changes committed since `horizon`; 0 asks for the present horizon alone."""


class Passwords(Protocol):
    """Slow hashes, computed where they block nobody."""

    async def hash(self, password: str) -> str: ...

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """False for None too, after the same time."""

    def is_outdated(self, password_hash: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What an access token says that has been read and believed."""

    user_id: str
    session_id: str
    expires_at: datetime


class Signatures(Protocol):
    """Signed access tokens."""

    def issue(self, user_id: str, session_id: str, now: datetime) -> str: ...

    def read(self, token: str, now: datetime) -> Claims:
        """Raises BadCredential unless we signed it, for us, and its time is now."""
