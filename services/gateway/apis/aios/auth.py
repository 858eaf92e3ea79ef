"""``/api/auth``: accounts and sessions."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, Field, JsonValue, StringConstraints

from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.shapes import Body, Plain
from services.gateway.edge.context import require_scope, require_user
from services.gateway.identity.model import ACCESS_SCOPE, Tokens, User
from services.gateway.identity.operations import Identity
from services.gateway.views import Instant

Credential = Annotated[Plain, StringConstraints(min_length=1, max_length=1024)]

# Documented here, judged by identity, whose sentences name the rule that is broken.
USERNAME: dict[str, JsonValue] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.@+-]{2,63}$"}
PASSWORD: dict[str, JsonValue] = {"minLength": 8, "maxLength": 128}


# Whether an address can be delivered to is learnt by sending; inside a company it may have no dot.
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")]


class NewAccount(Body):
    """An account to open."""

    username: str = Field(examples=["john_doe"], json_schema_extra=USERNAME)
    email: Email = Field(examples=["john@example.com"])
    password: str = Field(examples=["secure_password123"], json_schema_extra=PASSWORD)


class Refreshing(Body):
    """A refresh token to spend."""

    refresh_token: Credential


class PasswordChange(Body):
    """Ends all sessions of the account."""

    current_password: Credential
    new_password: str = Field(json_schema_extra=PASSWORD)


class Account(BaseModel):
    """An account."""

    id: str
    username: str
    email: str
    is_active: bool
    is_admin: bool
    created_at: Instant
    last_login: Instant | None


class Session(BaseModel):
    """What a login answers. `expires_in` is seconds."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


class Auth:
    """The routes."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/auth", tags=["aios"], route_class=StrictRoute)

        def post(path: str, endpoint: object, operation: str, summary: str, status: int = 200) -> None:
            router.add_api_route(
                path,
                endpoint,  # type: ignore[arg-type]  # bound coroutines of several shapes
                methods=["POST"],
                status_code=status,
                operation_id=f"aios_{operation}",
                summary=summary,
            )

        post("/register", self.register, "register", "Open an account", 201)
        post("/login", self.login, "login", "Log in")
        post("/refresh", self.refresh, "refresh", "Spend a refresh token for new tokens")
        post("/logout", self.logout, "logout", "End the session", 204)
        post("/password", self.change_password, "change_password", "Change the password", 204)
        router.add_api_route("/me", self.me, operation_id="aios_me", summary="The caller's account")
        return router

    async def register(self, body: NewAccount) -> Account:
        user = await self._identity.register(username=body.username, email=body.email, password=body.password)
        return _account(user)

    async def login(self, username: Annotated[Credential, Form()], password: Annotated[Credential, Form()]) -> Session:
        return _session(await self._identity.login(username=username, password=password))

    async def refresh(self, body: Refreshing) -> Session:
        return _session(await self._identity.refresh(body.refresh_token))

    async def logout(self, request: Request) -> None:
        await self._identity.logout(require_user(request.scope))

    async def change_password(self, request: Request, body: PasswordChange) -> None:
        # Whoever has the password has the account: a key for one purpose must not get that far.
        principal = require_scope(request.scope, ACCESS_SCOPE)
        await self._identity.change_password(principal.user_id, current=body.current_password, new=body.new_password)

    async def me(self, request: Request) -> Account:
        return _account(await self._identity.me(require_user(request.scope).user_id))


def _account(user: User) -> Account:
    return Account(
        id=user.id,
        username=user.username,
        email=user.email,
        is_active=user.is_active,
        is_admin=user.is_admin,
        created_at=views.iso(user.created_at),
        last_login=views.iso(user.last_login) if user.last_login else None,
    )


def _session(tokens: Tokens) -> Session:
    return Session(
        access_token=tokens.access_token,
        token_type="bearer",  # noqa: S106 - the type's name by RFC 6750
        expires_in=tokens.expires_in_seconds,
        refresh_token=tokens.refresh_token,
        refresh_expires_in=tokens.refresh_expires_in_seconds,
    )
