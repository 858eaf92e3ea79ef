"""Identity's shapes and rules: users, principals, sessions, API keys. No I/O; time is an argument."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from chassis.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated

ACCESS_SCOPE = "*"
# What routes ask for; everything besides is its user's alone.
SCOPES = ("chat", "models", "tasks", "agents", "webhooks", "worker", "users", "keys", "limits", ACCESS_SCOPE)
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{2,63}")
# Dot-atom, at, labels with at least one dot; letters of any script (RFC 6531), no quoted local parts.
_EMAIL = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@([^\W_]([\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,63}"
)
_LONGEST_EMAIL = 254
_PASSWORD_LENGTHS = (8, 128)
_MOST_SCOPES = 32
_LONGEST_KEY_NAME = 100


class Role(StrEnum):
    """What a user may do; see API §3."""

    ADMIN = "admin"
    USER = "user"
    SERVICE = "service"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who makes a request.

    Attributes:
        user_id: UUID of the user.
        key_id: public id of the API key that was used; empty for an access token.
        key_expires_at: when that key ends; None for one without an end, and for an access token.
        session_id: the login a token belongs to; empty for an API key.
        scopes: what the credential may be used for; ``*`` is everything its user may do.
    """

    user_id: str
    username: str
    role: str
    key_id: str = ""
    key_expires_at: datetime | None = None
    session_id: str = ""
    scopes: frozenset[str] = frozenset({ACCESS_SCOPE})

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account. `email` is empty for accounts created by settings without one."""

    id: str
    username: str
    email: str
    role: str
    is_active: bool
    created_at: datetime
    last_login: datetime | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A wish for an account."""

    username: str
    email: str
    password: str = field(repr=False)
    role: Role = Role.USER

    def check(self) -> None:
        """Raises Invalid with ``details["field"]`` unless all of it may stand. Settings may leave out the email."""
        check_username(self.username)
        if self.email or self.role is Role.USER:
            check_email(self.email)
        check_password(self.password)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a login answers. `expires_in_seconds` is the life of the access token."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in_seconds: int
    refresh_expires_in_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as it may be shown: never with its secret. `prefix` is ``amk_<id>``."""

    id: str
    user_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """An API key at the one moment when its secret is known."""

    key: ApiKey
    plaintext: str = field(repr=False)


class BadCredential(Unauthenticated):
    """The credential is wrong, expired or revoked; which of them is for the log alone."""

    default_message = "Invalid authentication credentials"


class UsernameTaken(Conflict):
    """Another account has that name, in whatever case."""

    default_code = "USERNAME_TAKEN"
    default_message = "Username already registered"


class EmailTaken(Conflict):
    """Another account has that address."""

    default_code = "EMAIL_TAKEN"
    default_message = "Email already registered"


class UserNotFound(NotFound):
    """No such user."""

    default_code = "USER_NOT_FOUND"
    default_message = "User not found"


class LastAdmin(Conflict):
    """Nobody would be left to give roles."""

    default_code = "LAST_ADMIN"
    default_message = "The last administrator stays one"


class KeyNotFound(NotFound):
    """No such API key, or it is another's."""

    default_code = "API_KEY_NOT_FOUND"
    default_message = "API key not found"


def check_username(username: str) -> None:
    """Raises Invalid unless it is 3 to 64 letters, digits and ``_.@+-``, beginning with a letter or digit."""
    if len(username) < 3:  # noqa: PLR2004 - the rule itself
        raise Invalid("Username must be at least 3 characters", details={"field": "username"})
    if not is_username(username):
        raise Invalid(
            "Username may hold up to 64 letters, digits and _ . @ + - and begins with a letter or digit",
            details={"field": "username"},
        )


def is_username(username: str) -> bool:
    """Whether anybody can have that name."""
    return _USERNAME.fullmatch(username) is not None


def _is_text(value: str) -> bool:
    """Neither NUL nor lone surrogates, which no store takes."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)


def check_email(email: str) -> None:
    """Raises Invalid unless it looks like an address; whether it is one, only a letter to it can tell."""
    if len(email) > _LONGEST_EMAIL or not _EMAIL.fullmatch(email):
        raise Invalid("Email is not a valid address", details={"field": "email"})


def check_password(password: str) -> None:
    """Raises Invalid unless it has 8 to 128 characters; what they are is the user's affair."""
    least, most = _PASSWORD_LENGTHS
    if not least <= len(password) <= most or not _is_text(password):
        raise Invalid(f"Password must have {least} to {most} characters of text", details={"field": "password"})


def check_key(name: str, scopes: tuple[str, ...], expires_at: datetime | None, now: datetime) -> None:
    """Raises Invalid unless an API key may be made like this."""
    if not 1 <= len(name) <= _LONGEST_KEY_NAME or not name.isprintable():
        raise Invalid(f"Name must have 1 to {_LONGEST_KEY_NAME} printable characters", details={"field": "name"})
    if not 1 <= len(scopes) <= _MOST_SCOPES or not set(scopes) <= set(SCOPES):
        known = ", ".join(SCOPES)
        raise Invalid(f"Scopes are 1 to {_MOST_SCOPES} of {known}", details={"field": "scopes", "known": known})
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
        raise Invalid("Expiry must be in the future, with a time zone", details={"field": "expires_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A refresh token at rest, good for one use.

    A second use ends its whole session, because one of the two is a thief.
    """

    id: str
    session_id: str
    user_id: str
    expires_at: datetime
    used_at: datetime | None = None
    session_revoked_at: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        """Its session goes on and its time is not over; whether it was spent before is another question."""
        return self.session_revoked_at is None and now < self.expires_at


def check_delegation(principal: Principal, scopes: tuple[str, ...], expires_at: datetime | None) -> None:
    """Raises Forbidden when a credential would hand on what it does not hold."""
    end = principal.key_expires_at
    if end is not None and (expires_at is None or expires_at > end):
        raise Forbidden("A key cannot outlive the key that makes it", details={"expires_at": end.isoformat()})
    if ACCESS_SCOPE not in principal.scopes and not set(scopes) <= principal.scopes:
        raise Forbidden("A key cannot be wider than the credential that makes it")
