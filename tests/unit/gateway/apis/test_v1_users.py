"""Accounts and their roles over the native API."""

from tests.unit.gateway.apis.world import ADMIN, USER, World

USERS = "/api/v1/users"


async def test_an_administrator_gives_a_role(world: World):
    """And sees it in the list."""
    changed = await world.ask("PATCH", f"{USERS}/{USER.user_id}", {"role": "worker"}, who="admin")
    assert (changed.status, changed.json["username"], changed.json["role"]) == (200, "john_doe", "worker")
    listed = (await world.ask("GET", f"{USERS}?per_page=2", who="admin")).json
    assert (listed["items"][0], listed["total"], listed["has_next"]) == (changed.json, 3, True)


async def test_nobody_else_may(world: World):
    """Neither look nor change, also not oneself."""
    for method, path, body in (("GET", USERS, None), ("PATCH", f"{USERS}/{USER.user_id}", {"role": "admin"})):
        assert (await world.ask(method, path, body)).status == 403
    own = await world.ask("PATCH", f"{USERS}/{ADMIN.user_id}", {"role": "user"}, who="admin")
    assert (own.status, own.json["error"]["code"]) == (409, "OWN_ROLE")


async def test_bad_roles_and_unknown_accounts_are_refused(world: World):
    """By field, and as not found."""
    refused = await world.ask("PATCH", f"{USERS}/{USER.user_id}", {"role": "king"}, who="admin")
    assert (refused.status, refused.json["error"]["details"]["field"]) == (400, "role")
    for nobody in ("x", "99999999-9999-7999-8999-999999999999"):
        unknown = await world.ask("PATCH", f"{USERS}/{nobody}", {"role": "user"}, who="admin")
        assert (unknown.status, unknown.json["error"]["code"]) == (404, "USER_NOT_FOUND")
