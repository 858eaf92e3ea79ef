"""``/api/v1/rate-limits``: the rules in force, putting others in their place, and what is left to a caller."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import Conflict, Forbidden, Invalid
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_uuid
from services.gateway.apis.shapes import Plain
from services.gateway.apis.v1.rules_text import rules_of, yaml_of
from services.gateway.edge.body import parse_json
from services.gateway.edge.context import current, require_admin, require_scope, require_user
from services.gateway.edge.errors import UnsupportedMediaType
from services.gateway.identity.model import KeyNotFound, Principal
from services.gateway.identity.operations import Identity

_SCOPE = "limits"
_YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
_TAG = re.compile(r'(W/)?"([^"]*)"')

Id = Annotated[Plain, StringConstraints(min_length=1, max_length=256)]


class LimitView(BaseModel):
    """A limit as it applies to a caller: `limit` in `window_seconds`, or at the same time where it is `concurrent`."""

    rule: str
    limit: int
    window_seconds: int
    concurrent: bool


class Bucket(LimitView):
    """With what is left of it, and the seconds until all of it is there again if nothing more is asked."""

    remaining: int
    reset_after_seconds: float


class LimitsInForce(BaseModel):
    """The limits that apply to the caller, by route class. For administrators the rules besides: as JSON, as the text
    that was read, and what is wrong with the rules file as it is now, empty when nothing is.
    """

    generation: str = Field(description="As the ETag; changes with the rules.", examples=["1f0a9c3b5d7e2468"])
    origin: Literal["file", "api"] = Field(description="Where the rules come from.")
    limits: dict[str, list[LimitView]]
    rules: dict[str, Any] | None = None
    source: str | None = None
    problem: str | None = None


class RulesInForce(BaseModel):
    """They are in force in every instance within a second."""

    generation: str


class ClassUsage(BaseModel):
    """A route class and its buckets, in the order of the rules."""

    route_class: str
    buckets: list[Bucket]


class LimitUsage(BaseModel):
    """What is left to a caller. `degraded`: Redis is away, and these are the figures of one instance."""

    user: str | None
    api_key: str | None
    degraded: bool
    classes: list[ClassUsage]


class RateLimits:
    """The routes."""

    def __init__(self, ratelimit: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub", identity: Identity) -> None:
        self._ratelimit = ratelimit
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/rate-limits", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.show, operation_id="v1_get_rate_limits", summary="Look at the limits; administrators: the rules")
        add(
            "",
            self.put,
            methods=["PUT"],
            operation_id="v1_put_rate_limits",
            summary="Put other rules in force, everywhere within a second",
            openapi_extra={"requestBody": _BODY},
        )
        add("/usage", self.usage, operation_id="v1_get_rate_limit_usage", summary="What is left of the limits")
        return router

    async def show(self, request: Request, response: Response) -> LimitsInForce:
        principal = require_user(request.scope)
        rules = await self._ratelimit.GetRules(ratelimit_pb2.GetRulesRequest())
        usage = await self._ratelimit.GetUsage(ratelimit_pb2.GetUsageRequest(subject=_caller(request, principal)))
        response.headers["ETag"] = f'"{_tag(rules.generation)}"'
        shown = LimitsInForce(
            generation=_tag(rules.generation),
            origin="api" if rules.origin == "api" else "file",
            limits={one.route_class: [LimitView(**_limit(rule)) for rule in one.rules] for one in usage.classes},
        )
        if principal.is_admin:
            shown.rules, shown.source, shown.problem = rules_of(rules.source), rules.source, rules.problem
        return shown

    async def put(
        self,
        request: Request,
        response: Response,
        if_match: Annotated[Plain | None, Header(description="Only in place of rules with this ETag.")] = None,
    ) -> RulesInForce:
        require_admin(request.scope)
        require_scope(request.scope, _SCOPE)
        wanted = ratelimit_pb2.PutRulesRequest(
            source=_text(await request.body(), request.headers.get("content-type", ""))
        )
        if if_match is not None and if_match.strip() != "*":
            in_force = await self._ratelimit.GetRules(ratelimit_pb2.GetRulesRequest())
            wanted.expected_generation = in_force.generation
            if ("", _tag(in_force.generation)) not in _TAG.findall(if_match):
                raise Conflict("The rules have changed since they were read", code="RULES_CHANGED")
        put = await self._ratelimit.PutRules(wanted)
        response.headers["ETag"] = f'"{_tag(put.generation)}"'
        return RulesInForce(generation=_tag(put.generation))

    async def usage(
        self,
        request: Request,
        user: Annotated[Id | None, Query(description="Administrators: a user's id, or the address of a guest.")] = None,
        api_key: Annotated[Id | None, Query(description="Id of a key of the caller's; administrators: of any.")] = None,
        route_class: Annotated[Id | None, Query(examples=["v1.chat"])] = None,
    ) -> LimitUsage:
        subject = await self._subject(request, user, api_key)
        subject.route_class = route_class or ""
        answer = await self._ratelimit.GetUsage(ratelimit_pb2.GetUsageRequest(subject=subject))
        return LimitUsage(
            user=subject.user or None,
            api_key=subject.api_key or None,
            degraded=answer.degraded,
            classes=[
                ClassUsage(route_class=one.route_class, buckets=[_bucket(rule) for rule in one.rules])
                for one in answer.classes
            ],
        )

    async def _subject(self, request: Request, user: str | None, api_key: str | None) -> ratelimit_pb2.Subject:
        """Whose buckets are asked for. Raises Forbidden and NotFound for those that are not the caller's to see."""
        principal = require_user(request.scope)
        if user is None and api_key is None:
            return _caller(request, principal)
        if not principal.is_admin:
            if user not in {None, principal.user_id}:
                raise Forbidden("Administrative privileges required")
            if api_key is not None and api_key not in {
                key.id for key in await self._identity.list_keys(principal.user_id)
            }:
                raise KeyNotFound
            return ratelimit_pb2.Subject(user=principal.user_id, role=principal.role, api_key=api_key or "")
        if user is None:
            return ratelimit_pb2.Subject(api_key=api_key or "")
        if not is_uuid(user):
            return ratelimit_pb2.Subject(user=user, role="anonymous", ip=user, api_key=api_key or "")
        role = (await self._identity.me(user)).role
        return ratelimit_pb2.Subject(user=user, role=role, api_key=api_key or "")


def _caller(request: Request, principal: Principal) -> ratelimit_pb2.Subject:
    return ratelimit_pb2.Subject(
        user=principal.user_id, role=principal.role, api_key=principal.key_id, ip=current(request.scope).client_ip
    )


def _text(body: bytes, content_type: str) -> str:
    """The rules that a body holds. Raises Invalid and UnsupportedMediaType."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        parse_json(body)
        return yaml_of(body.decode())
    if media_type not in _YAML:
        raise UnsupportedMediaType(f"Send application/yaml or application/json, not {media_type or 'an unnamed type'}")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        reason = "this is not YAML: not UTF-8"
        raise Invalid(
            f"rules:{line}: {reason}", code="BAD_RULES", details={"line": str(line), "reason": reason}
        ) from None


def _tag(generation: int) -> str:
    # Not as a number: it has more digits than JavaScript's numbers.
    return f"{generation:016x}"


def _limit(rule: ratelimit_pb2.RuleState) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "limit": rule.limit,
        "window_seconds": rule.window_seconds,
        "concurrent": rule.concurrent,
    }


def _bucket(rule: ratelimit_pb2.RuleState) -> Bucket:
    return Bucket(**_limit(rule), remaining=rule.remaining, reset_after_seconds=rule.reset_after_ms / 1000)


_BODY = {
    "required": True,
    "description": "A rules file; the built-in one, which describes the format, is the `source` of a new installation. "
    "JSON has the same structure.",
    "content": {"application/yaml": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}},
}
