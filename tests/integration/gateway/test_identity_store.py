"""One behaviour, two stores: what identity's operations were tested on is what Postgres does."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from services.gateway.identity import keys
from services.gateway.identity.model import ApiKey, EmailTaken, RefreshToken, User, UsernameTaken
from services.gateway.identity.ports import ApiKeys, ChangeFeed, Sessions, Users
from services.gateway.identity.store import ApiKeyStore, ChangeStore, SessionStore, UserStore
from tests.support.clock import FakeClock
from tests.unit.gateway.identity.memory import Memory, MemoryChanges, MemoryKeys, MemorySessions, MemoryUsers

pytestmark = pytest.mark.postgres

NOW = FakeClock().now()
LATER = NOW + timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    users: Users
    sessions: Sessions
    keys: ApiKeys
    changes: ChangeFeed


@pytest.fixture(params=["memory", "postgres"])
def identity(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        memory = Memory()
        return Stores(
            users=MemoryUsers(memory),
            sessions=MemorySessions(memory),
            keys=MemoryKeys(memory),
            changes=MemoryChanges(memory),
        )
    database = request.getfixturevalue("database")
    return Stores(
        users=UserStore(database),
        sessions=SessionStore(database),
        keys=ApiKeyStore(database),
        changes=ChangeStore(database),
    )


def a_user(name: str = "Ann", email: str | None = None, **fields: object) -> User:
    address = f"{name}@example.com" if email is None else email
    made = User(id=keys.new_uuid(), username=name, email=address, role="user", is_active=True, created_at=NOW)
    return replace(made, **fields)  # type: ignore[arg-type]  # fields of several types


def a_token(user: User, session: str | None = None) -> tuple[RefreshToken, bytes]:
    token_id, digest, _ = keys.make("amr")
    session_id = session or keys.new_uuid()
    return RefreshToken(id=token_id, session_id=session_id, user_id=user.id, expires_at=LATER), digest


def a_key(user: User, created_at: datetime = NOW) -> tuple[ApiKey, bytes]:
    key_id, digest, _ = keys.make("amk")
    key = ApiKey(
        id=key_id,
        user_id=user.id,
        name="laptop",
        prefix=f"amk_{key_id}",
        scopes=("chat", "tasks"),
        created_at=created_at,
        expires_at=LATER,
    )
    return key, digest


async def test_users_come_back_as_they_went_in(identity: Stores):
    """Every field, by id and by name in any case."""
    user = a_user()
    await identity.users.add(user, "hash")
    assert await identity.users.get(user.id) == user
    assert await identity.users.for_login("aNN") == (user, "hash")
    assert await identity.users.get(keys.new_uuid()) is None
    assert await identity.users.for_login("nobody") is None


async def test_names_and_addresses_are_unique_without_case(identity: Stores):
    """No address at all may be had by many."""
    await identity.users.add(a_user(), "hash")
    with pytest.raises(UsernameTaken):
        await identity.users.add(a_user("ANN", email="other@example.com"), "hash")
    with pytest.raises(EmailTaken):
        await identity.users.add(a_user("Ben", email="ANN@example.com"), "hash")
    await identity.users.add(a_user("Cid", email=""), "hash")
    await identity.users.add(a_user("Dan", email=""), "hash")


async def test_of_many_that_want_a_name_one_gets_it(identity: Stores):
    """Registrations at the same time leave one account."""
    wishes = [identity.users.add(a_user("Ann", email=""), "hash") for _ in range(5)]
    results = await asyncio.gather(*wishes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["UsernameTaken"] * 4


async def test_a_login_and_a_renewed_hash_are_kept(identity: Stores):
    """Both change one thing alone."""
    user = a_user()
    await identity.users.add(user, "hash")
    await identity.users.logged_in(user.id, LATER)
    assert await identity.users.renew_hash(user.id, "hash", "new hash")
    assert not await identity.users.renew_hash(user.id, "hash", "too late")
    assert await identity.users.for_login("Ann") == (replace(user, last_login=LATER), "new hash")


async def test_a_role_is_kept_and_announced(identity: Stores):
    """For that account alone; accounts are listed oldest first."""
    ann, bob = a_user(), a_user("Bob", created_at=LATER)
    for user in (bob, ann):
        await identity.users.add(user, "hash")
    horizon = (await identity.changes.since(0)).horizon
    assert await identity.users.set_role(bob.id, "worker") == replace(bob, role="worker")
    assert [change.subject for change in (await identity.changes.since(horizon)).changes] == [bob.id]
    assert await identity.users.set_role(keys.new_uuid(), "worker") is None
    assert await identity.users.page(0, 9) == ([ann, replace(bob, role="worker")], 2)
    assert await identity.users.page(1, 1) == ([replace(bob, role="worker")], 2)


async def test_administrators_who_dismiss_each_other_leave_one(identity: Stores):
    """However close together."""
    admins = [a_user(name, role="admin") for name in ("Ann", "Bob", "Cid")]
    for user in admins:
        await identity.users.add(user, "hash")
    dismissed = [identity.users.set_role(user.id, "user") for user in admins]
    results = await asyncio.gather(*dismissed, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["LastAdmin", "User", "User"]
    assert [user.is_admin for user in (await identity.users.page(0, 9))[0]].count(True) == 1


async def test_a_new_password_ends_all_sessions(identity: Stores):
    """The sessions of the user end and the feed says so."""
    user, other = a_user(), a_user("Ben")
    for one in (user, other):
        await identity.users.add(one, "hash")
    mine, digest = a_token(user)
    theirs, their_digest = a_token(other)
    await identity.sessions.open(mine, digest, NOW, "hash")
    await identity.sessions.open(theirs, their_digest, NOW, "hash")
    horizon = (await identity.changes.since(0)).horizon
    await identity.users.set_password(user.id, "new", LATER)
    assert await identity.sessions.user_of(mine.session_id, user.id) is None
    assert await identity.sessions.user_of(theirs.session_id, other.id) == other
    assert [change.subject for change in (await identity.changes.since(horizon)).changes] == [user.id]


async def test_no_session_begins_behind_a_change_of_the_password(identity: Stores):
    """A login that was verified before opens nothing; one at the same moment is ended or refused, never left."""
    user = a_user()
    await identity.users.add(user, "hash")
    tokens = [a_token(user) for _ in range(8)]
    opened = [identity.sessions.open(token, digest, NOW, "hash") for token, digest in tokens]
    await asyncio.gather(*opened[:4], identity.users.set_password(user.id, "new", LATER), *opened[4:])
    assert {await identity.sessions.user_of(token.session_id, user.id) for token, _ in tokens} == {None}
    late, digest = a_token(user)
    assert not await identity.sessions.open(late, digest, LATER, "hash")
    assert await identity.sessions.open(late, digest, LATER, "new")


async def test_a_session_names_its_active_user(identity: Stores):
    """Another's session, an unknown one, a revoked one and an inactive user name nobody."""
    user, idle = a_user(), a_user("Idle", is_active=False)
    for one in (user, idle):
        await identity.users.add(one, "hash")
    token, digest = a_token(user)
    idle_token, idle_digest = a_token(idle)
    await identity.sessions.open(token, digest, NOW, "hash")
    await identity.sessions.open(idle_token, idle_digest, NOW, "hash")
    assert await identity.sessions.user_of(token.session_id, user.id) == user
    assert await identity.sessions.user_of(token.session_id, idle.id) is None
    assert await identity.sessions.user_of(keys.new_uuid(), user.id) is None
    assert await identity.sessions.user_of(idle_token.session_id, idle.id) is None
    await identity.sessions.revoke(token.session_id, LATER)
    assert await identity.sessions.user_of(token.session_id, user.id) is None


async def test_a_refresh_token_is_spent_once(identity: Stores):
    """Of many that spend it at once, one gets the successor."""
    user = a_user()
    await identity.users.add(user, "hash")
    token, digest = a_token(user)
    await identity.sessions.open(token, digest, NOW, "hash")
    assert await identity.sessions.find(token.id, digest) == token
    assert await identity.sessions.find(token.id, bytes(32)) is None
    successors = [a_token(user, token.session_id) for _ in range(5)]
    spent = await asyncio.gather(*(identity.sessions.rotate(token.id, *pair, LATER) for pair in successors))
    assert sorted(spent) == [False] * 4 + [True]
    found = [await identity.sessions.find(successor.id, mark) for successor, mark in successors]
    assert sum(one is not None for one in found) == 1
    used = await identity.sessions.find(token.id, digest)
    assert used is not None
    assert used.used_at == LATER


async def test_dead_sessions_go_with_the_next_login(identity: Stores):
    """What nobody can refresh any more is removed; what lasts, and what is another's, stays."""
    user, other = a_user(), a_user("Ben")
    for one in (user, other):
        await identity.users.add(one, "hash")
    dead, dead_digest = a_token(user)
    foreign, foreign_digest = a_token(other)
    lasting, lasting_digest = a_token(user)
    lasting = replace(lasting, expires_at=LATER + timedelta(hours=1))
    new, new_digest = a_token(user)
    await identity.sessions.open(dead, dead_digest, NOW, "hash")
    await identity.sessions.open(foreign, foreign_digest, NOW, "hash")
    await identity.sessions.open(lasting, lasting_digest, NOW, "hash")
    await identity.sessions.open(new, new_digest, LATER, "hash")
    assert await identity.sessions.find(dead.id, dead_digest) is None
    assert await identity.sessions.find(lasting.id, lasting_digest) == lasting
    assert await identity.sessions.find(foreign.id, foreign_digest) == foreign


async def test_keys_come_back_as_they_went_in(identity: Stores):
    """With their hash and their user; the list is the user's own, newest first."""
    user, other = a_user(), a_user("Ben")
    for one in (user, other):
        await identity.users.add(one, "hash")
    (old, digest), (new, _), (foreign, _) = a_key(user), a_key(user, LATER), a_key(other)
    for key in (old, new, foreign):
        await identity.keys.add(key, digest)
    assert await identity.keys.find(old.id) == (old, digest, user)
    assert await identity.keys.find("abcdefghijkl") is None
    assert list(await identity.keys.list_of(user.id)) == [new, old]


async def test_a_key_is_revoked_by_its_owner_or_by_anybody_allowed(identity: Stores):
    """The first revocation's time stays, and each is news."""
    user, other = a_user(), a_user("Ben")
    for one in (user, other):
        await identity.users.add(one, "hash")
    key, digest = a_key(user)
    await identity.keys.add(key, digest)
    horizon = (await identity.changes.since(0)).horizon
    assert not await identity.keys.revoke(key.id, other.id, NOW)
    assert not await identity.keys.revoke("abcdefghijkl", None, NOW)
    assert (await identity.changes.since(horizon)).changes == ()
    assert await identity.keys.revoke(key.id, user.id, NOW)
    assert await identity.keys.revoke(key.id, None, LATER)
    found = await identity.keys.find(key.id)
    assert found is not None
    assert found[0].revoked_at == NOW
    assert {change.subject for change in (await identity.changes.since(horizon)).changes} == {key.id}
