"""Builds the llm service; the only place that knows all its rooms."""

from functools import partial

import aiohttp
from mesh.llm.v1.llm_pb2_grpc import add_LlmServiceServicer_to_server
from mesh.tasks.v1 import tasks_pb2_grpc

from chassis.breaker import Breaker
from chassis.clock import Clock
from chassis.database import open_database
from chassis.lifecycle import Host
from chassis.logging import get_logger
from chassis.messaging.connection import open_broker
from chassis.rpc.peer import open_peer
from chassis.rpc.server import open_server
from services.llm.config import Llm, Server, Settings
from services.llm.operations import Catalogue, Chats, Fetching
from services.llm.operations.catalogue import Source
from services.llm.operations.chats import Ports
from services.llm.ports import Provider
from services.llm.providers.connections import open_session
from services.llm.providers.echo import Echo
from services.llm.providers.http import Client, Site
from services.llm.providers.ollama import Ollama
from services.llm.providers.ollama_library import OllamaLibrary
from services.llm.providers.openai import Dialect, OpenAI
from services.llm.providers.traced import Traced
from services.llm.rpc import LlmServicer
from services.llm.store.answers import KeptAnswers
from services.llm.store.usage import UsageBook, open_usage
from services.llm.worker.asking import GROUP, Asking
from services.llm.worker.pulling import Pulling
from worker import RabbitFeed, Runner

log = get_logger(__name__)

_LOCAL_REFRESH_SECONDS = 5.0
_HOSTED_REFRESH_SECONDS = 300.0
# For which a library may be silent: it verifies tens of gigabytes without a word.
_VERIFYING_SECONDS = 600.0
# Less than a repeated request waits, so that it need not fail when who had the key is gone.
_HOLD_SECONDS = 20.0


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, in the order in which it is needed."""
    database = await host.enter(open_database(settings.postgres, schema="llm"))
    host.health.add("database", database.ping)
    session = await host.enter(open_session(settings.llm.connections))
    catalogue = Catalogue(
        _sources(settings, session, host.clock),
        clock=host.clock,
        default_model=settings.llm.default_model,
        on_change=_tell,
    )
    # Before the first call, so that a model which is there is not unknown to it.
    await catalogue.refresh()
    host.spawn("catalogue", catalogue.watch())
    answers = KeptAnswers(
        database,
        hold_seconds=_HOLD_SECONDS,
        keep_seconds=settings.llm.answer_keep_seconds,
    )
    host.spawn("answers", answers.sweep())
    ledger = await host.enter(open_usage(host, database, settings.llm.usage_buffer_rows))
    ports = Ports(ledger=ledger, book=UsageBook(database), answers=answers, clock=host.clock)
    chats = Chats(catalogue, ports, wait_seconds=settings.llm.answer_wait_seconds)
    await _work(settings, host, chats, Fetching(_library(settings, session, host.clock), catalogue))
    register = [partial(add_LlmServiceServicer_to_server, LlmServicer(chats, catalogue))]
    await host.enter(open_server(host, settings.rpc, settings.discovery, register=register))


async def _work(settings: Settings, host: Host, chats: Chats, fetching: Fetching) -> None:
    """Takes tasks. Neither the broker nor the tasks service has to be there: callers are answered without them."""
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("rabbitmq", broker.ping)
    tasks = await host.enter(open_peer(host, "tasks", settings.discovery))
    slots = settings.llm.slots
    feed = RabbitFeed(broker, GROUP, slots, settings.rabbit.queue_type)
    kinds = {**Asking(chats).kinds(), **Pulling(fetching).kinds()}
    runner = Runner(host, tasks_pb2_grpc.WorkerServiceStub(tasks), feed, name=host.instance, kinds=kinds, slots=slots)
    await host.enter(runner.open())


def _tell(provider: str, answers: bool) -> None:  # noqa: FBT001 - it is the state itself
    if answers:
        log.info("A provider answers", provider=provider)
    else:
        log.warning("A provider does not answer", provider=provider)


def _sources(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> list[Source]:
    """The providers, most preferred first."""
    sources = [_ollama(settings, session, clock)]
    sources += [_server(server, settings.llm, session, clock) for server in settings.servers]
    sources.append(_source(Echo(clock), settings.llm, clock, expected=True, refresh_seconds=_HOSTED_REFRESH_SECONDS))
    return sources


def _ollama(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> Source:
    site = _ollama_site(settings, idle_seconds=settings.ollama.timeout_seconds)
    provider = Ollama(Client(session, site, clock), settings.ollama.default_model, clock)
    return _source(provider, settings.llm, clock, expected=False, refresh_seconds=_LOCAL_REFRESH_SECONDS)


def _library(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> OllamaLibrary:
    return OllamaLibrary(Client(session, _ollama_site(settings, idle_seconds=_VERIFYING_SECONDS), clock))


def _ollama_site(settings: Settings, *, idle_seconds: float) -> Site:
    return Site(
        provider="ollama",
        url=settings.ollama.url,
        error_code="OLLAMA_ERROR",
        timeout_seconds=settings.llm.timeout_seconds,
        idle_seconds=idle_seconds,
    )


def _server(server: Server, limits: Llm, session: aiohttp.ClientSession, clock: Clock) -> Source:
    site = Site(
        provider=server.name,
        url=server.url,
        headers=_credentials(server),
        timeout_seconds=limits.timeout_seconds,
        idle_seconds=limits.idle_seconds,
    )
    dialect = Dialect(
        name=server.name,
        default_model=server.default_model,
        models=server.models,
        max_tokens_field=server.max_tokens_field,
    )
    provider = OpenAI(Client(session, site, clock), dialect, clock)
    return _source(provider, limits, clock, expected=True, refresh_seconds=_HOSTED_REFRESH_SECONDS)


def _credentials(server: Server) -> dict[str, str]:
    key = server.key
    if not key:
        return {}
    # Anthropic takes the bearer for chats, but lists its models only by its own headers.
    own = {"x-api-key": key, "anthropic-version": "2023-06-01"} if server.name == "anthropic" else {}
    return {"authorization": f"Bearer {key}", **own}


def _source(provider: Provider, limits: Llm, clock: Clock, *, expected: bool, refresh_seconds: float) -> Source:
    breaker = Breaker(
        provider.name,
        clock,
        failure_threshold=limits.breaker_failures,
        recovery_seconds=limits.breaker_recovery_seconds,
    )
    return Source(provider=Traced(provider), breaker=breaker, expected=expected, refresh_seconds=refresh_seconds)
