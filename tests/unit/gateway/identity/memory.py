"""Identity's ports in memory, with the same promises as the real ones; the store suite holds both to them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from chassis.errors import Unavailable
from services.gateway.identity.model import ApiKey, EmailTaken, LastAdmin, RefreshToken, User, UsernameTaken
from services.gateway.identity.ports import Change, Changes


class Memory:
    """The rows that the stores below share. `away` makes all of them raise Unavailable."""

    def __init__(self) -> None:
        self.away = False
        self.reads = 0
        self.users: dict[str, tuple[User, str]] = {}
        self.sessions: dict[str, tuple[str, datetime | None]] = {}
        self.tokens: dict[str, tuple[RefreshToken, bytes]] = {}
        self.keys: dict[str, tuple[ApiKey, bytes]] = {}
        self.changes: list[Change] = []

    def touch(self) -> None:
        self.reads += 1
        if self.away:
            raise Unavailable(code="DATABASE_ERROR", retry_after_seconds=1.0)

    def announce(self, subject: str) -> None:
        self.changes.append(Change(id=len(self.changes) + 1, subject=subject))


class MemoryUsers:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def add(self, user: User, password_hash: str) -> None:
        self._memory.touch()
        others = [other for other, _ in self._memory.users.values()]
        if any(user.email and other.email.lower() == user.email.lower() for other in others):
            raise EmailTaken
        if any(other.username.lower() == user.username.lower() for other in others):
            raise UsernameTaken
        self._memory.users[user.id] = user, password_hash

    async def get(self, user_id: str) -> User | None:
        self._memory.touch()
        found = self._memory.users.get(user_id)
        return found[0] if found else None

    async def page(self, offset: int, limit: int) -> tuple[Sequence[User], int]:
        self._memory.touch()
        found = sorted((user for user, _ in self._memory.users.values()), key=lambda user: (user.created_at, user.id))
        return found[offset : offset + limit], len(found)

    async def set_role(self, user_id: str, role: str) -> User | None:
        user = await self.get(user_id)
        if user is None:
            return None
        if role != "admin" and [one.id for one, _ in self._memory.users.values() if one.is_admin] == [user_id]:
            raise LastAdmin
        changed = replace(user, role=role)
        self._memory.users[user_id] = changed, self._memory.users[user_id][1]
        self._memory.announce(user_id)
        return changed

    async def for_login(self, username: str) -> tuple[User, str] | None:
        self._memory.touch()
        found = [pair for pair in self._memory.users.values() if pair[0].username.lower() == username.lower()]
        return found[0] if found else None

    async def logged_in(self, user_id: str, at: datetime) -> None:
        self._memory.touch()
        user, password_hash = self._memory.users[user_id]
        self._memory.users[user_id] = replace(user, last_login=at), password_hash

    async def renew_hash(self, user_id: str, before: str, after: str) -> bool:
        self._memory.touch()
        user, password_hash = self._memory.users[user_id]
        if password_hash == before:
            self._memory.users[user_id] = user, after
        return password_hash == before

    async def set_password(self, user_id: str, password_hash: str, at: datetime) -> None:
        self._memory.touch()
        self._memory.users[user_id] = self._memory.users[user_id][0], password_hash
        for session, (owner, revoked) in self._memory.sessions.items():
            if owner == user_id:
                self._memory.sessions[session] = owner, revoked or at
        self._memory.announce(user_id)


class MemorySessions:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def open(self, token: RefreshToken, token_hash: bytes, created_at: datetime, password_hash: str) -> bool:
        self._memory.touch()
        if self._memory.users[token.user_id][1] != password_hash:
            return False
        lasting = {kept.session_id for kept, _ in self._memory.tokens.values() if kept.expires_at > created_at}
        mine = {session for session, (owner, _) in self._memory.sessions.items() if owner == token.user_id}
        for dead in mine - lasting:
            del self._memory.sessions[dead]
        self._memory.tokens = {
            name: pair for name, pair in self._memory.tokens.items() if pair[0].session_id in self._memory.sessions
        }
        self._memory.sessions[token.session_id] = token.user_id, None
        self._memory.tokens[token.id] = token, token_hash
        return True

    async def find(self, token_id: str, token_hash: bytes) -> RefreshToken | None:
        self._memory.touch()
        found = self._memory.tokens.get(token_id)
        if found is None or found[1] != token_hash:
            return None
        return replace(found[0], session_revoked_at=self._memory.sessions[found[0].session_id][1])

    async def rotate(self, used_id: str, successor: RefreshToken, token_hash: bytes, at: datetime) -> bool:
        self._memory.touch()
        used, digest = self._memory.tokens[used_id]
        if used.used_at is not None:
            return False
        self._memory.tokens[used_id] = replace(used, used_at=at), digest
        self._memory.tokens[successor.id] = successor, token_hash
        return True

    async def revoke(self, session_id: str, at: datetime) -> None:
        self._memory.touch()
        owner, revoked = self._memory.sessions[session_id]
        self._memory.sessions[session_id] = owner, revoked or at
        self._memory.announce(session_id)

    async def user_of(self, session_id: str, user_id: str) -> User | None:
        self._memory.touch()
        owner, revoked = self._memory.sessions.get(session_id, ("", None))
        user = self._memory.users[user_id][0] if owner == user_id and revoked is None else None
        return user if user is not None and user.is_active else None


class MemoryKeys:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def add(self, key: ApiKey, secret_hash: bytes) -> None:
        self._memory.touch()
        self._memory.keys[key.id] = key, secret_hash

    async def list_of(self, user_id: str) -> Sequence[ApiKey]:
        self._memory.touch()
        mine = [key for key, _ in self._memory.keys.values() if key.user_id == user_id]
        return sorted(mine, key=lambda key: key.created_at, reverse=True)

    async def revoke(self, key_id: str, user_id: str | None, at: datetime) -> bool:
        self._memory.touch()
        key, digest = self._memory.keys.get(key_id, (None, b""))
        if key is None or user_id not in (None, key.user_id):
            return False
        self._memory.keys[key_id] = replace(key, revoked_at=key.revoked_at or at), digest
        self._memory.announce(key_id)
        return True

    async def find(self, key_id: str) -> tuple[ApiKey, bytes, User] | None:
        self._memory.touch()
        found = self._memory.keys.get(key_id)
        return (*found, self._memory.users[found[0].user_id][0]) if found else None


class MemoryChanges:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def since(self, horizon: int) -> Changes:
        self._memory.touch()
        news = tuple(change for change in self._memory.changes if 0 < horizon <= change.id)
        return Changes(horizon=len(self._memory.changes) + 1, changes=news)


class PlainPasswords:
    """No hash at all, so that tests are fast; counts comparisons. ``old:`` marks one that is to be renewed."""

    def __init__(self) -> None:
        self.compared = 0

    async def hash(self, password: str) -> str:
        return f"hash:{password}"

    async def matches(self, password_hash: str | None, password: str) -> bool:
        self.compared += 1
        return password_hash in (f"hash:{password}", f"old:{password}")

    def is_outdated(self, password_hash: str) -> bool:
        return password_hash.startswith("old:")
