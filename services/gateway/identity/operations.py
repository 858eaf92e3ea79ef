"""What identity does: register, log in, refresh, log out, make and revoke keys, and tell who a credential is."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.clock import Clock
from chassis.errors import Conflict, Unauthenticated
from services.gateway.identity import keys, model
from services.gateway.identity.cache import VerifiedCredentials
from services.gateway.identity.model import (
    ApiKey,
    BadCredential,
    KeyNotFound,
    NewApiKey,
    Principal,
    RefreshToken,
    Registration,
    Role,
    Tokens,
    User,
    UsernameTaken,
    UserNotFound,
)
from services.gateway.identity.ports import ApiKeys, Passwords, Sessions, Signatures, Users

_REFRESH = "amr"
_API_KEY = "amk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything identity's operations stand on."""

    users: Users
    sessions: Sessions
    api_keys: ApiKeys
    passwords: Passwords
    signatures: Signatures


class Identity:
    """The operations. All but `recall` raise Unavailable when the store is away."""

    def __init__(
        self, ports: Ports, cache: VerifiedCredentials, clock: Clock, *, access_seconds: int, refresh_seconds: int
    ) -> None:
        self._ports = ports
        self._cache = cache
        self._clock = clock
        self._access_seconds = access_seconds
        self._refresh_seconds = refresh_seconds

    async def register(self, *, username: str, email: str, password: str) -> User:
        """A new account with role user. Raises Invalid (``details["field"]``), UsernameTaken or EmailTaken."""
        return await self._add(Registration(username=username, email=email, password=password))

    async def ensure_admin(self, registration: Registration) -> None:
        """Creates the first administrator unless an account of that name exists, whoever creates it first."""
        if await self._ports.users.for_login(registration.username) is not None:
            return
        try:
            await self._add(registration)
        except UsernameTaken:
            # Another replica was faster; the account is there, which is all that was wanted.
            return

    async def _add(self, registration: Registration) -> User:
        registration.check()
        user = User(
            id=keys.new_uuid(),
            username=registration.username,
            email=registration.email,
            role=registration.role,
            is_active=True,
            created_at=self._clock.now(),
        )
        await self._ports.users.add(user, await self._ports.passwords.hash(registration.password))
        return user

    async def login(self, *, username: str, password: str) -> Tokens:
        """A new session. Raises BadCredential, after the same time whether the name or the password was wrong."""
        found = await self._ports.users.for_login(username) if model.is_username(username) else None
        matches = await self._ports.passwords.matches(found[1] if found else None, password)
        if found is None or not matches or not found[0].is_active:
            raise BadCredential("Incorrect username or password", private=f"login of {username[:64]!r}")
        (user, password_hash), now = found, self._clock.now()
        await self._ports.users.logged_in(user.id, now)
        if self._ports.passwords.is_outdated(password_hash):
            password_hash = await self._renewed(user, password_hash, password)
        token, digest, plaintext = self._refresh_token(user.id, keys.new_uuid(), now)
        if not await self._ports.sessions.open(token, digest, now, password_hash):
            raise BadCredential("Incorrect username or password", private="the password was changed meanwhile")
        return self._tokens(user, token, plaintext, now)

    async def _renewed(self, user: User, before: str, password: str) -> str:
        after = await self._ports.passwords.hash(password)
        return after if await self._ports.users.renew_hash(user.id, before, after) else before

    async def refresh(self, refresh_token: str) -> Tokens:
        """Spends a refresh token for new tokens. A second use of it ends the session. Raises BadCredential."""
        token_id, digest = keys.parse(_REFRESH, refresh_token)
        token = await self._ports.sessions.find(token_id, digest)
        now = self._clock.now()
        if token is None or not token.is_alive(now):
            raise BadCredential(private="refresh token unknown, expired or of an ended session")
        user = await self._ports.users.get(token.user_id)
        if user is None or not user.is_active:
            raise BadCredential(private="the user of the refresh token is not active")
        successor, next_digest, plaintext = self._refresh_token(user.id, token.session_id, now)
        spent = await self._ports.sessions.rotate(token.id, successor, next_digest, now)
        if not spent:
            await self._ports.sessions.revoke(token.session_id, now)
            raise BadCredential(private=f"refresh token used twice; session {token.session_id} ended")
        return self._tokens(user, successor, plaintext, now)

    async def logout(self, principal: Principal) -> None:
        """Ends the session of an access token, and with it all its tokens on every replica within a second."""
        if not principal.session_id:
            raise Unauthenticated("Only a session can be logged out", private="logout with an API key")
        await self._ports.sessions.revoke(principal.session_id, self._clock.now())
        self._cache.forget({principal.session_id})

    async def change_password(self, user_id: str, *, current: str, new: str) -> None:
        """Changes the password and ends all sessions of the user. Raises Invalid, BadCredential or UserNotFound."""
        model.check_password(new)
        user = await self.me(user_id)
        found = await self._ports.users.for_login(user.username)
        if found is None or not await self._ports.passwords.matches(found[1], current):
            raise BadCredential("Incorrect password")
        await self._ports.users.set_password(user_id, await self._ports.passwords.hash(new), self._clock.now())
        self._cache.forget({user_id})

    async def me(self, user_id: str) -> User:
        """An account as it is now. Raises UserNotFound."""
        user = await self._ports.users.get(user_id)
        if user is None:
            raise UserNotFound
        return user

    async def list_users(self, offset: int, limit: int) -> tuple[list[User], int]:
        """Accounts, oldest first, and how many there are in all."""
        found, total = await self._ports.users.page(offset, limit)
        return list(found), total

    async def give_role(self, principal: Principal, user_id: str, role: Role) -> User:
        """Another role for another account; all its credentials have it within a second.

        Raises Conflict (``OWN_ROLE``) for one's own, LastAdmin, so that one is always left, and UserNotFound.
        """
        if user_id == principal.user_id:
            raise Conflict("Another administrator has to change your role", code="OWN_ROLE")
        user = await self._ports.users.set_role(user_id, role)
        if user is None:
            raise UserNotFound
        self._cache.forget({user_id})
        return user

    async def create_key(
        self,
        principal: Principal,
        *,
        name: str,
        scopes: tuple[str, ...] = (model.ACCESS_SCOPE,),
        expires_at: datetime | None = None,
    ) -> NewApiKey:
        """A new API key of the caller, no wider and no longer than its maker. Raises Invalid or Forbidden."""
        now = self._clock.now()
        model.check_key(name, scopes, expires_at, now)
        model.check_delegation(principal, scopes, expires_at)
        key_id, digest, plaintext = keys.make(_API_KEY)
        key = ApiKey(
            id=key_id,
            user_id=principal.user_id,
            name=name,
            prefix=f"{_API_KEY}_{key_id}",
            scopes=tuple(sorted(set(scopes))),
            created_at=now,
            expires_at=expires_at,
        )
        await self._ports.api_keys.add(key, digest)
        return NewApiKey(key=key, plaintext=plaintext)

    async def list_keys(self, user_id: str) -> list[ApiKey]:
        """The keys of a user, newest first, ended ones too."""
        return list(await self._ports.api_keys.list_of(user_id))

    async def revoke_key(self, principal: Principal, key_id: str) -> None:
        """Ends a key of the caller (of anybody, for an administrator) on every replica. Raises KeyNotFound."""
        owner = None if principal.is_admin else principal.user_id
        if not keys.is_id(key_id) or not await self._ports.api_keys.revoke(key_id, owner, self._clock.now()):
            raise KeyNotFound
        self._cache.forget({key_id})

    def recall(self, credential: str) -> Principal | None:
        """Who a credential is, if it was verified before and nothing has changed since: no I/O, no cryptography."""
        return self._cache.get(credential)

    async def authenticate(self, credential: str) -> Principal:
        """Who a credential (access token or API key) is. Raises BadCredential; Unavailable when nobody can tell now."""
        known = self._cache.get(credential)
        if known is not None:
            return known
        # Taken before the rows are read: a change that arrives meanwhile makes the cache refuse what they said.
        version = self._cache.version
        if credential.startswith(f"{_API_KEY}_"):
            principal, expires_at = await self._of_key(credential)
        else:
            principal, expires_at = await self._of_token(credential)
        self._cache.put(credential, principal, expires_at, version)
        return principal

    async def _of_key(self, credential: str) -> tuple[Principal, datetime | None]:
        key_id, digest = keys.parse(_API_KEY, credential)
        found = await self._ports.api_keys.find(key_id)
        if found is None:
            raise BadCredential(private="unknown API key")
        key, expected, user = found
        if not keys.equal(expected, digest) or not key.is_alive(self._clock.now()) or not user.is_active:
            raise BadCredential(private=f"API key {key_id}: wrong secret, ended, or its user is not active")
        principal = Principal(
            user_id=user.id,
            username=user.username,
            role=user.role,
            key_id=key.id,
            key_expires_at=key.expires_at,
            scopes=frozenset(key.scopes),
        )
        return principal, key.expires_at

    async def _of_token(self, credential: str) -> tuple[Principal, datetime | None]:
        claims = self._ports.signatures.read(credential, self._clock.now())
        user = await self._ports.sessions.user_of(claims.session_id, claims.user_id)
        if user is None:
            raise BadCredential(private=f"session {claims.session_id} has ended or its user is not active")
        principal = Principal(user_id=user.id, username=user.username, role=user.role, session_id=claims.session_id)
        return principal, claims.expires_at

    def _refresh_token(self, user_id: str, session_id: str, now: datetime) -> tuple[RefreshToken, bytes, str]:
        token_id, digest, plaintext = keys.make(_REFRESH)
        expires_at = now + timedelta(seconds=self._refresh_seconds)
        token = RefreshToken(id=token_id, session_id=session_id, user_id=user_id, expires_at=expires_at)
        return token, digest, plaintext

    def _tokens(self, user: User, token: RefreshToken, plaintext: str, now: datetime) -> Tokens:
        return Tokens(
            access_token=self._ports.signatures.issue(user.id, token.session_id, now),
            refresh_token=plaintext,
            expires_in_seconds=self._access_seconds,
            refresh_expires_in_seconds=self._refresh_seconds,
        )


def first_admin(username: str, email: str, password: str) -> Registration:
    """The wish of the settings for a first administrator. Raises Invalid when it may not stand."""
    registration = Registration(username=username, email=email, password=password, role=Role.ADMIN)
    registration.check()
    return registration
