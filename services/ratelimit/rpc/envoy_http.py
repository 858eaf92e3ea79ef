"""The HTTP faces of `DescriptorLimits`: decisions and health on one port, configuration and figures on another."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import json_format

from chassis.errors import MeshError
from chassis.logging import get_logger
from services.ratelimit.config import Envoy
from services.ratelimit.descriptors.limits import Configuration, DescriptorLimits
from services.ratelimit.model.descriptors import UNIT_NAMES, UNITS, Rule
from services.ratelimit.model.limits import SECOND_US

log = get_logger(__name__)

_LARGEST_BODY_BYTES = 4 * 1024 * 1024
_STATUS = {
    rls_pb2.RateLimitResponse.UNKNOWN: 500,
    rls_pb2.RateLimitResponse.OK: 200,
    rls_pb2.RateLimitResponse.OVER_LIMIT: 429,
}


@asynccontextmanager
async def open_envoy_http(
    settings: Envoy, limits: DescriptorLimits, configuration: Configuration, healthy: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serves both ports until it is closed."""
    service = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    service.router.add_route("*", "/json", _json(limits))
    service.router.add_get("/healthcheck", _healthcheck(healthy))
    debug = web.Application()
    debug.router.add_get("/rlconfig", _rlconfig(configuration))
    debug.router.add_get("/stats", _stats(limits))
    debug.router.add_get("/", _index)
    runners = [web.AppRunner(app, access_log=None, handle_signals=False) for app in (service, debug)]
    places = ((settings.host, settings.port), (settings.debug_host, settings.debug_port))
    try:
        for runner, (address, port) in zip(runners, places, strict=True):
            await runner.setup()
            await web.TCPSite(runner, address, port, reuse_port=settings.reuse_ports).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


Handler = Callable[[web.Request], Awaitable[web.Response]]


def _json(limits: DescriptorLimits) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        """A request as JSON; 429 when it is denied, 400 when it is no request or a bad one."""
        message = rls_pb2.RateLimitRequest()
        try:
            json_format.Parse(await request.read(), message)
            raw = await limits.answer(message.SerializeToString())
        except (json_format.ParseError, UnicodeDecodeError, MeshError) as error:
            log.debug("A request over HTTP was refused", error=str(error))
            return web.Response(status=400, text="Bad Request\n")
        found = rls_pb2.RateLimitResponse.FromString(raw)
        text = json_format.MessageToJson(found, indent=None)
        return web.Response(status=_STATUS[found.overall_code], text=text, content_type="application/json")

    return answer


def _healthcheck(healthy: Callable[[], bool]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(text="OK") if healthy() else web.Response(status=500)

    return answer


def _rlconfig(configuration: Configuration) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        del request
        book = configuration.book
        return web.Response(text="".join(map(_line, book.rules() if book is not None else ())))

    return answer


def _line(rule: Rule) -> str:
    unit = UNIT_NAMES.get(rule.unit, "UNKNOWN")
    if rule.limit is not None and (unit not in UNITS or UNITS[unit].seconds * SECOND_US != rule.limit.window_us):
        # A window of our own.
        unit = f"{rule.limit.window_us // SECOND_US}s"
    modes = f"shadow_mode: {str(rule.shadow).lower()}, quota_mode: {str(rule.quota).lower()}"
    return f"{rule.path}: unit={unit} requests_per_unit={rule.requests_per_unit}, {modes}\n"


def _stats(limits: DescriptorLimits) -> Handler:
    def lines() -> Iterator[str]:
        for name, value in limits.statistics.lines():
            yield f"{name}: {value}\n"

    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(text="".join(lines()))

    return answer


async def _index(request: web.Request) -> web.Response:
    del request
    return web.Response(text="/rlconfig: the descriptors in force\n/stats: what happened under each\n")
