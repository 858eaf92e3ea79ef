"""Identity's ports over Postgres. Knows the tables and no rule: what may be done, the operations have decided."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, and_, delete, exists, func, insert, select, text, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from services.gateway.identity.model import ApiKey, EmailTaken, LastAdmin, RefreshToken, Role, User, UsernameTaken
from services.gateway.identity.ports import Change, Changes
from services.gateway.identity.tables import (
    EMAIL_KEY,
    USERNAME_KEY,
    api_keys,
    credential_changes,
    refresh_tokens,
    sessions,
    users,
)

_USER_COLUMNS = tuple(column for column in users.c if column.name != "password_hash")
_KEY_COLUMNS = tuple(column for column in api_keys.c if column.name != "digest")
# Longer than any replica that still trusts its memory can have been cut off (`cache._LONGEST_GAP_SECONDS`).
_CHANGES_KEPT = timedelta(days=1)


class UserStore:
    """Accounts in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User, password_hash: str) -> None:
        row = {column.name: getattr(user, column.name) for column in _USER_COLUMNS}
        try:
            async with self._database.transaction() as connection:
                await connection.execute(insert(users).values(**row, password_hash=password_hash))
        except IntegrityError as error:
            if str(EMAIL_KEY.name) in str(error.orig):
                raise EmailTaken from None
            if str(USERNAME_KEY.name) in str(error.orig):
                raise UsernameTaken from None
            raise

    async def get(self, user_id: str) -> User | None:
        async with self._database.transaction() as connection:
            result = await connection.execute(select(*_USER_COLUMNS).where(users.c.id == user_id))
            row = result.mappings().one_or_none()
        return None if row is None else _user(row)

    async def page(self, offset: int, limit: int) -> tuple[Sequence[User], int]:
        query = select(*_USER_COLUMNS).order_by(users.c.created_at, users.c.id).offset(offset).limit(limit)
        async with self._database.transaction() as connection:
            found = [_user(row) for row in (await connection.execute(query)).mappings()]
            total = (await connection.execute(select(func.count()).select_from(users))).scalar_one()
        return found, total

    async def set_role(self, user_id: str, role: str) -> User | None:
        changed = update(users).where(users.c.id == user_id).values(role=role).returning(*_USER_COLUMNS)
        # Locked, so that of two administrators who take the role from each other one is left.
        admins = select(users.c.id).where(users.c.role == Role.ADMIN).order_by(users.c.id).with_for_update()
        async with self._database.transaction() as connection:
            if role != Role.ADMIN and list((await connection.execute(admins)).scalars()) == [user_id]:
                raise LastAdmin
            row = (await connection.execute(changed)).mappings().one_or_none()
            if row is not None:
                await _announce(connection, user_id)
        return None if row is None else _user(row)

    async def for_login(self, username: str) -> tuple[User, str] | None:
        wanted = func.lower(users.c.username) == func.lower(username)
        async with self._database.transaction() as connection:
            result = await connection.execute(select(*_USER_COLUMNS, users.c.password_hash).where(wanted))
            row = result.mappings().one_or_none()
        return None if row is None else (_user(row), row["password_hash"])

    async def logged_in(self, user_id: str, at: datetime) -> None:
        await self._set(user_id, last_login=at)

    async def renew_hash(self, user_id: str, before: str, after: str) -> bool:
        same = and_(users.c.id == user_id, users.c.password_hash == before)
        async with self._database.transaction() as connection:
            renewed = await connection.execute(update(users).where(same).values(password_hash=after))
        return bool(renewed.rowcount)

    async def set_password(self, user_id: str, password_hash: str, at: datetime) -> None:
        ended = update(sessions).where(sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None))
        async with self._database.transaction() as connection:
            await connection.execute(update(users).where(users.c.id == user_id).values(password_hash=password_hash))
            await connection.execute(ended.values(revoked_at=at))
            await _announce(connection, user_id)

    async def _set(self, user_id: str, **values: Any) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(update(users).where(users.c.id == user_id).values(**values))


class SessionStore:
    """Sessions and refresh tokens in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, token: RefreshToken, token_hash: bytes, created_at: datetime, password_hash: str) -> bool:
        session = {"id": token.session_id, "user_id": token.user_id, "created_at": created_at}
        alive = exists().where(refresh_tokens.c.session_id == sessions.c.id, refresh_tokens.c.expires_at > created_at)
        same = and_(users.c.id == token.user_id, users.c.password_hash == password_hash)
        async with self._database.transaction() as connection:
            # The lock makes a change of the password wait, and then end this session with the others.
            if (await connection.execute(select(users.c.id).where(same).with_for_update(read=True))).scalar() is None:
                return False
            # Each login takes the user's dead sessions with it, so that nobody has to sweep.
            await connection.execute(delete(sessions).where(sessions.c.user_id == token.user_id, ~alive))
            await connection.execute(insert(sessions).values(session))
            await connection.execute(_insert_token(token, token_hash))
        return True

    async def find(self, token_id: str, token_hash: bytes) -> RefreshToken | None:
        query = (
            select(*refresh_tokens.c, sessions.c.user_id, sessions.c.revoked_at)
            .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
            .where(refresh_tokens.c.id == token_id, refresh_tokens.c.digest == token_hash)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        return RefreshToken(
            id=row["id"],
            session_id=row["session_id"],
            user_id=row["user_id"],
            expires_at=row["expires_at"],
            used_at=row["used_at"],
            session_revoked_at=row["revoked_at"],
        )

    async def rotate(self, used_id: str, successor: RefreshToken, token_hash: bytes, at: datetime) -> bool:
        unspent = and_(refresh_tokens.c.id == used_id, refresh_tokens.c.used_at.is_(None))
        async with self._database.transaction() as connection:
            spent = await connection.execute(update(refresh_tokens).where(unspent).values(used_at=at))
            if not spent.rowcount:
                return False
            await connection.execute(_insert_token(successor, token_hash))
        return True

    async def revoke(self, session_id: str, at: datetime) -> None:
        lasting = and_(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
        async with self._database.transaction() as connection:
            await connection.execute(update(sessions).where(lasting).values(revoked_at=at))
            await _announce(connection, session_id)

    async def user_of(self, session_id: str, user_id: str) -> User | None:
        query = (
            select(*_USER_COLUMNS)
            .join(sessions, sessions.c.user_id == users.c.id)
            .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
            .where(users.c.id == user_id, users.c.is_active)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else _user(row)


class ApiKeyStore:
    """API keys in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, secret_hash: bytes) -> None:
        row = {column.name: getattr(key, column.name) for column in _KEY_COLUMNS}
        async with self._database.transaction() as connection:
            await connection.execute(insert(api_keys).values(**row | {"scopes": list(key.scopes)}, digest=secret_hash))

    async def list_of(self, user_id: str) -> Sequence[ApiKey]:
        query = select(*_KEY_COLUMNS).where(api_keys.c.user_id == user_id)
        async with self._database.transaction() as connection:
            result = await connection.execute(query.order_by(api_keys.c.created_at.desc(), api_keys.c.id))
            return [_key(row) for row in result.mappings()]

    async def revoke(self, key_id: str, user_id: str | None, at: datetime) -> bool:
        mine = and_(api_keys.c.id == key_id, true() if user_id is None else api_keys.c.user_id == user_id)
        # A second revocation finds the key and leaves the time of the first.
        moment = func.coalesce(api_keys.c.revoked_at, at)
        async with self._database.transaction() as connection:
            found = await connection.execute(update(api_keys).where(mine).values(revoked_at=moment))
            if found.rowcount:
                await _announce(connection, key_id)
        return bool(found.rowcount)

    async def find(self, key_id: str) -> tuple[ApiKey, bytes, User] | None:
        owner = [column.label(f"owner_{column.name}") for column in _USER_COLUMNS]
        query = select(*api_keys.c, *owner).join(users, users.c.id == api_keys.c.user_id).where(api_keys.c.id == key_id)
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else (_key(row), row["digest"], _user(row, "owner_"))


class ChangeStore:
    """The feed of ended credentials, from Postgres."""

    _SINCE = text(
        """
        SELECT (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint AS horizon, change.id, change.subject
        FROM (SELECT 1) AS once
        LEFT JOIN gateway.credential_changes AS change ON :horizon > 0 AND change.transaction_id >= :horizon
        """
    )

    def __init__(self, database: Database) -> None:
        self._database = database

    async def since(self, horizon: int) -> Changes:
        """One statement, therefore one snapshot: what it does not show yet will be at or above its horizon."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(self._SINCE, {"horizon": horizon})).all()
        changes = tuple(Change(id=row.id, subject=row.subject) for row in rows if row.id is not None)
        return Changes(horizon=rows[0].horizon, changes=changes)


async def _announce(connection: AsyncConnection, subject: str) -> None:
    await connection.execute(insert(credential_changes).values(subject=subject))
    old = credential_changes.c.changed_at < func.now() - _CHANGES_KEPT
    await connection.execute(delete(credential_changes).where(old))


def _insert_token(token: RefreshToken, token_hash: bytes) -> Any:
    return insert(refresh_tokens).values(
        id=token.id, session_id=token.session_id, digest=token_hash, expires_at=token.expires_at
    )


def _user(row: RowMapping, prefix: str = "") -> User:
    return User(**{column.name: row[prefix + column.name] for column in _USER_COLUMNS})


def _key(row: RowMapping) -> ApiKey:
    values = {column.name: row[column.name] for column in _KEY_COLUMNS}
    return ApiKey(**values | {"scopes": tuple(row["scopes"]), "prefix": f"amk_{row['id']}"})
