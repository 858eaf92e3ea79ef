"""``/api/v1/keys``: API keys of the caller. A key is shown once, when it is made."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints

from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_key_id
from services.gateway.apis.shapes import Body, Moment
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import ACCESS_SCOPE, ApiKey, KeyNotFound
from services.gateway.identity.operations import Identity
from services.gateway.views import Instant

Scope = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class NewKey(Body):
    """A wish for a key.

    `scopes` narrow it: chat, models, tasks, agents, webhooks, worker, users, keys, limits; ``*`` is all of its maker's.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(examples=["ci"])
    scopes: list[Scope] = Field(default=[ACCESS_SCOPE], min_length=1, max_length=32)
    expires_at: Moment | None = Field(default=None, description="UTC unless it says otherwise.")


class KeyView(BaseModel):
    """A key as it may be shown again."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class KeyOnce(KeyView):
    """A key with its secret, for the only time."""

    key: str


class KeyList(BaseModel):
    """The caller's keys, newest first, ended ones too."""

    keys: list[KeyView]


class Keys:
    """The routes."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/keys", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.create, methods=["POST"], status_code=201, operation_id="v1_create_key", summary="Make an API key")
        add("", self.list_keys, operation_id="v1_list_keys", summary="List API keys")
        add(
            "/{key_id}",
            self.revoke,
            methods=["DELETE"],
            status_code=204,
            operation_id="v1_revoke_key",
            summary="Revoke an API key, everywhere within a second",
        )
        return router

    async def create(self, request: Request, body: NewKey) -> KeyOnce:
        principal = require_scope(request.scope, "keys")
        made = await self._identity.create_key(
            principal, name=body.name, scopes=tuple(body.scopes), expires_at=body.expires_at
        )
        return KeyOnce(**_shown(made.key).model_dump(), key=made.plaintext)

    async def list_keys(self, request: Request) -> KeyList:
        principal = require_scope(request.scope, "keys")
        return KeyList(keys=[_shown(key) for key in await self._identity.list_keys(principal.user_id)])

    async def revoke(self, request: Request, key_id: str) -> None:
        principal = require_scope(request.scope, "keys")
        if not is_key_id(key_id):
            raise KeyNotFound
        await self._identity.revoke_key(principal, key_id)


def _shown(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=list(key.scopes),
        created_at=views.iso(key.created_at),
        expires_at=views.iso(key.expires_at) if key.expires_at else None,
        revoked_at=views.iso(key.revoked_at) if key.revoked_at else None,
    )
