import pytest

from chassis.errors import Forbidden, Unauthenticated
from services.gateway.edge.context import KEY, RequestContext, Scope, require_admin, require_scope, require_user
from services.gateway.identity.model import Principal

ADMIN = Principal(user_id="u", username="root", role="admin")
NARROW = Principal(user_id="u", username="ann", role="user", scopes=frozenset({"chat"}))


def scope(principal: Principal | None) -> Scope:
    return {KEY: RequestContext(request_id="r", traceparent="", principal=principal)}


def test_who_may_be_who():
    """Somebody, an administrator, and a credential for something."""
    assert require_user(scope(NARROW)) == NARROW
    assert require_admin(scope(ADMIN)) == ADMIN
    assert require_scope(scope(NARROW), "chat") == NARROW
    assert require_scope(scope(ADMIN), "chat") == ADMIN


def test_who_may_not():
    """Nobody is 401, somebody without the right is 403."""
    for require in (require_user, require_admin):
        with pytest.raises(Unauthenticated):
            require(scope(None))
    with pytest.raises(Forbidden):
        require_admin(scope(NARROW))
    with pytest.raises(Forbidden):
        require_scope(scope(NARROW), "tasks:read")
