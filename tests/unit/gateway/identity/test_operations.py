import pytest

from chassis.errors import Conflict, Forbidden, Invalid, Unauthenticated, Unavailable
from services.gateway.identity.model import BadCredential, KeyNotFound, Role, User, UserNotFound
from services.gateway.identity.operations import first_admin
from tests.unit.gateway.identity.world import PASSWORD, World

USERS_OF_NOBODY = "99999999-9999-7999-8999-999999999999"


@pytest.fixture
async def world() -> World:
    made = World()
    await made.user()
    return made


async def test_a_registered_user_is_an_active_user_without_a_login():
    """Registering answers the account as it will be shown."""
    world = World()
    user = await world.identity.register(username="John", email="j@example.com", password=PASSWORD)
    assert (user.username, user.email, user.role, user.is_active, user.last_login) == (
        "John",
        "j@example.com",
        "user",
        True,
        None,
    )
    assert user.created_at == world.clock.now()
    assert await world.identity.me(user.id) == user


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("username", {"username": "jo"}),
        ("username", {"username": "jo hn"}),
        ("username", {"username": "jo\0hn"}),
        ("username", {"username": "x" * 65}),
        ("username", {"username": "'; drop table users"}),
        ("email", {"email": "nobody"}),
        ("email", {"email": "a@b"}),
        ("email", {"email": "a\ud800@example.com"}),
        ("email", {"email": f"{'a' * 250}@example.com"}),
        ("password", {"password": "short"}),
        ("password", {"password": "x" * 129}),
        ("password", {"password": "nul\0nul\0nul"}),
        ("password", {"password": "surrogate\ud800"}),
    ],
)
async def test_bad_registrations_name_their_field(field: str, values: dict[str, str]):
    """Each rule refuses with the field it is about."""
    wish = {"username": "jane_doe", "email": "jane@example.com", "password": PASSWORD} | values
    with pytest.raises(Invalid) as refused:
        await World().identity.register(**wish)
    assert refused.value.details["field"] == field


async def test_names_and_addresses_are_taken_in_any_case(world: World):
    """The same name or address in other letters is a conflict."""
    with pytest.raises(Conflict, match="USERNAME_TAKEN"):
        await world.identity.register(username="JOHN_DOE", email="other@example.com", password=PASSWORD)
    with pytest.raises(Conflict, match="EMAIL_TAKEN"):
        await world.identity.register(username="other", email="JOHN_DOE@example.com", password=PASSWORD)


async def test_a_login_is_remembered_and_its_token_names_the_user(world: World):
    """A login sets last_login; its token authenticates the user with every scope."""
    tokens = await world.identity.login(username="John_Doe", password=PASSWORD)
    principal = await world.identity.authenticate(tokens.access_token)
    assert (principal.username, principal.role, principal.is_admin, principal.key_id) == ("john_doe", "user", False, "")
    assert principal.scopes == {"*"}
    assert tokens.expires_in_seconds == 1800
    assert (await world.identity.me(principal.user_id)).last_login == world.clock.now()


@pytest.mark.parametrize("username", ["john_doe", "nobody_here", "\0", "\ud800", "x" * 5000])
async def test_wrong_logins_look_alike_and_cost_one_comparison(world: World, username: str):
    """A wrong password and an unknown name are refused with the same words after the same work."""
    with pytest.raises(BadCredential) as refused:
        await world.identity.login(username=username, password="wrong\ud800")
    assert refused.value.message == "Incorrect username or password"
    assert world.passwords.compared == 1


async def test_an_outdated_hash_is_renewed_at_login(world: World):
    """The password is hashed anew when the parameters have changed, without ending anything."""
    token = await world.token()
    user_id = (await world.identity.authenticate(token)).user_id
    world.memory.users[user_id] = world.memory.users[user_id][0], f"old:{PASSWORD}"
    await world.token()
    assert world.memory.users[user_id][1] == f"hash:{PASSWORD}"
    assert (await world.identity.authenticate(token)).user_id == user_id


async def test_a_password_changed_during_a_login_wins(world: World, monkeypatch: pytest.MonkeyPatch):
    """The login was verified against the old one: it opens nothing, and its renewed hash does not bring it back."""
    user_id = (await world.identity.authenticate(await world.token())).user_id
    world.memory.users[user_id] = world.memory.users[user_id][0], f"old:{PASSWORD}"
    matches = world.passwords.matches

    async def change_meanwhile(password_hash: str | None, password: str) -> bool:
        matched = await matches(password_hash, password)
        world.memory.users[user_id] = world.memory.users[user_id][0], "hash:another"
        return matched

    monkeypatch.setattr(world.passwords, "matches", change_meanwhile)
    with pytest.raises(BadCredential):
        await world.identity.login(username="john_doe", password=PASSWORD)
    assert world.memory.users[user_id][1] == "hash:another"


async def test_a_refresh_token_is_good_once(world: World):
    """Refreshing gives new tokens of the same session; the old refresh token, used again, ends them all."""
    first = await world.identity.login(username="john_doe", password=PASSWORD)
    second = await world.identity.refresh(first.refresh_token)
    await world.identity.authenticate(second.access_token)
    with pytest.raises(BadCredential):
        await world.identity.refresh(first.refresh_token)
    with pytest.raises(BadCredential):
        await world.identity.refresh(second.refresh_token)
    await world.invalidation.poll()
    world.cache.forget_all()
    with pytest.raises(BadCredential):
        await world.identity.authenticate(second.access_token)


async def test_refresh_tokens_expire_and_cannot_be_made_up(world: World):
    """An expired, a foreign and a malformed refresh token are refused."""
    tokens = await world.identity.login(username="john_doe", password=PASSWORD)
    for wrong in (tokens.access_token, "", tokens.refresh_token[:-1] + "~", await world.key()):
        with pytest.raises(BadCredential):
            await world.identity.refresh(wrong)
    world.clock.advance(86401)
    with pytest.raises(BadCredential):
        await world.identity.refresh(tokens.refresh_token)


async def test_logout_ends_the_session_at_once(world: World):
    """After a logout the access token and the refresh token are worth nothing."""
    tokens = await world.identity.login(username="john_doe", password=PASSWORD)
    await world.identity.logout(await world.identity.authenticate(tokens.access_token))
    assert world.identity.recall(tokens.access_token) is None
    with pytest.raises(BadCredential):
        await world.identity.authenticate(tokens.access_token)
    with pytest.raises(BadCredential):
        await world.identity.refresh(tokens.refresh_token)


async def test_an_api_key_cannot_log_out(world: World):
    """A key belongs to no session."""
    principal = await world.identity.authenticate(await world.key())
    with pytest.raises(Unauthenticated):
        await world.identity.logout(principal)


async def test_a_changed_password_ends_every_session(world: World):
    """The old password and all old tokens end; the new one works."""
    token = await world.token()
    user_id = (await world.identity.authenticate(token)).user_id
    with pytest.raises(BadCredential):
        await world.identity.change_password(user_id, current="wrong", new="another secret")
    await world.identity.change_password(user_id, current=PASSWORD, new="another secret")
    with pytest.raises(BadCredential):
        await world.identity.authenticate(token)
    with pytest.raises(BadCredential):
        await world.token()
    assert await world.identity.login(username="john_doe", password="another secret")


async def test_a_key_works_until_it_is_revoked(world: World):
    """A key names its user and scopes, is listed without its secret, and ends when revoked."""
    key = await world.key(scopes=("chat", "tasks"))
    principal = await world.identity.authenticate(key)
    assert principal.scopes == {"chat", "tasks"}
    listed = await world.identity.list_keys(principal.user_id)
    assert [found.id for found in listed] == [principal.key_id]
    assert key not in repr(listed)
    await world.identity.revoke_key(principal, principal.key_id)
    with pytest.raises(BadCredential):
        await world.identity.authenticate(key)


async def test_a_key_cannot_be_wider_than_its_maker(world: World):
    """A scoped key makes keys of its own scopes alone."""
    principal = await world.identity.authenticate(await world.key(scopes=("chat",)))
    assert await world.identity.create_key(principal, name="narrow", scopes=("chat",))
    for wider in (("*",), ("chat", "tasks")):
        with pytest.raises(Forbidden):
            await world.identity.create_key(principal, name="wide", scopes=wider)


async def test_foreign_keys_are_not_found(world: World):
    """Another user's key cannot be revoked, an administrator may; ids that are none are not looked up."""
    key = await world.key()
    owner = await world.identity.authenticate(key)
    await world.user("mallory")
    mallory = await world.identity.authenticate(await world.token("mallory"))
    for key_id in (owner.key_id, "abcdefghijkl", "\0", ""):
        with pytest.raises(KeyNotFound):
            await world.identity.revoke_key(mallory, key_id)
    await world.identity.ensure_admin(first_admin("root", "", PASSWORD))
    admin = await world.identity.authenticate(await world.token("root"))
    assert admin.is_admin
    await world.identity.revoke_key(admin, owner.key_id)
    with pytest.raises(BadCredential):
        await world.identity.authenticate(key)


async def test_the_first_admin_is_made_once(world: World):
    """A second start, and one that raced, change nothing."""
    await world.identity.ensure_admin(first_admin("root", "", PASSWORD))
    await world.identity.ensure_admin(first_admin("ROOT", "", "another password"))
    assert await world.token("root")
    with pytest.raises(Invalid):
        first_admin("root", "", "short")


async def test_unknown_users_are_not_found(world: World):
    """`me` of nobody is an error with a code."""
    with pytest.raises(UserNotFound):
        await world.identity.me("01a1fdbc-f20f-7767-9e67-22be7fe2f0a6")


async def test_postgres_away(world: World):
    """Warm credentials go on working; what nobody can verify now is Unavailable, and what is plainly wrong is not."""
    token, key, cold = await world.token(), await world.key(), await world.token()
    await world.identity.authenticate(token)
    await world.identity.authenticate(key)
    world.memory.away = True
    assert (await world.identity.authenticate(token)).username == "john_doe"
    assert (await world.identity.authenticate(key)).username == "john_doe"
    with pytest.raises(Unavailable) as away:
        await world.identity.authenticate(cold)
    assert away.value.retry_after_seconds
    for forged in (key[:-1] + "~", cold[:-3] + "abc", "nonsense"):
        with pytest.raises(BadCredential):
            await world.identity.authenticate(forged)


async def test_warm_credentials_read_nothing(world: World):
    """The second request of a credential touches no store."""
    token = await world.token()
    await world.identity.authenticate(token)
    reads = world.memory.reads
    assert world.identity.recall(token) == await world.identity.authenticate(token)
    assert world.memory.reads == reads


async def test_a_role_is_given_to_every_credential(world: World):
    """Also to those that were verified before, on every replica."""
    boss = await world.identity.authenticate(await world.key((await _boss(world)).username))
    key, elsewhere = await world.key(), World(world.clock, world.memory)
    assert (await elsewhere.identity.authenticate(key)).role == "user"
    before = await world.identity.authenticate(key)
    await elsewhere.invalidation.poll()
    changed = await world.identity.give_role(boss, before.user_id, Role.WORKER)
    assert (changed.username, changed.role) == ("john_doe", "worker")
    await elsewhere.invalidation.poll()
    for replica in (world, elsewhere):
        assert (await replica.identity.authenticate(key)).role == "worker"


async def test_nobody_changes_the_own_role(world: World):
    """So an administrator is left; and a role needs an account."""
    boss = await world.identity.authenticate(await world.key((await _boss(world)).username))
    with pytest.raises(Conflict, match="OWN_ROLE"):
        await world.identity.give_role(boss, boss.user_id, Role.USER)
    with pytest.raises(UserNotFound):
        await world.identity.give_role(boss, USERS_OF_NOBODY, Role.USER)


async def test_accounts_are_listed_oldest_first(world: World):
    """By pages, with the number of all."""
    await _boss(world)
    found, total = await world.identity.list_users(1, 1)
    assert ([user.role for user in found], total) == (["admin"], 2)


async def _boss(world: World) -> User:
    world.clock.advance(1)
    await world.identity.ensure_admin(first_admin("boss", "boss@example.com", PASSWORD))
    (user,) = [user for user, _ in world.memory.users.values() if user.is_admin]
    return user
