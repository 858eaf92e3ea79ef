"""``/api/v1/users``: accounts as administrators see them, and the roles they give."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_uuid
from services.gateway.apis.shapes import Body
from services.gateway.apis.v1.shapes import Page, Paginated, PerPage, paginated
from services.gateway.edge.asgi import Scope
from services.gateway.edge.context import require_admin, require_scope
from services.gateway.identity.model import Principal, Role, User, UserNotFound
from services.gateway.identity.operations import Identity
from services.gateway.views import Instant

_SCOPE = "users"
RoleName = Literal["admin", "user", "service", "worker"]


class UserChange(Body):
    """The role it shall have: `worker` may connect workers, `admin` may do everything."""

    role: RoleName


class UserView(BaseModel):
    """An account."""

    id: str
    username: str
    email: str
    role: RoleName
    is_active: bool
    created_at: Instant
    last_login: Instant | None


class Users:
    """The routes."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/users", tags=["v1"], route_class=StrictRoute)
        router.add_api_route(
            "", self.list_users, operation_id="v1_list_users", summary="List accounts (administrators)"
        )
        router.add_api_route(
            "/{user_id}",
            self.change,
            methods=["PATCH"],
            operation_id="v1_change_user",
            summary="Give an account a role (administrators), everywhere within a second",
        )
        return router

    async def list_users(self, request: Request, page: Page = 1, per_page: PerPage = 20) -> Paginated[UserView]:
        _require(request.scope)
        found, total = await self._identity.list_users((page - 1) * per_page, per_page)
        return paginated([_shown(user) for user in found], total=total, page=page, per_page=per_page)

    async def change(self, request: Request, user_id: str, body: UserChange) -> UserView:
        principal = _require(request.scope)
        if not is_uuid(user_id):
            raise UserNotFound
        return _shown(await self._identity.give_role(principal, user_id, Role(body.role)))


def _require(scope: Scope) -> Principal:
    """An administrator, with a credential that is good for accounts."""
    require_admin(scope)
    return require_scope(scope, _SCOPE)


def _shown(user: User) -> UserView:
    return UserView(
        id=user.id,
        username=user.username,
        email=user.email,
        role=Role(user.role).value,
        is_active=user.is_active,
        created_at=views.iso(user.created_at),
        last_login=views.iso(user.last_login) if user.last_login else None,
    )
