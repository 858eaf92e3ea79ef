"""The only place that builds things: identity, the ways to peers, the APIs, the edge around them, the listener."""

from collections.abc import Callable

from mesh.ratelimit.v1 import ratelimit_pb2_grpc
from prometheus_client import REGISTRY

from chassis.breaker import Breaker
from chassis.database import Database, open_database
from chassis.discovery import register
from chassis.lifecycle import Host
from chassis.messaging.connection import Broker, open_broker
from chassis.rpc.lane import open_lane
from services.gateway.apis import health
from services.gateway.apis.behind import Behind
from services.gateway.apis.dialects import Dialect, answer_tokens, classify, dialect_of, is_public
from services.gateway.apis.errors import render
from services.gateway.apis.exchange import ClientGone
from services.gateway.apis.front import create_app
from services.gateway.apis.submissions import Submissions
from services.gateway.config import Accounts, Http, Settings
from services.gateway.edge.limits import Limits
from services.gateway.edge.metrics import Metrics
from services.gateway.edge.pipeline import Edge, Layers, Rules
from services.gateway.edge.security import Security, SecuritySettings
from services.gateway.identity import administrator
from services.gateway.identity.cache import Invalidation, VerifiedCredentials
from services.gateway.identity.operations import Identity, Ports, first_admin
from services.gateway.identity.passwords import open_passwords
from services.gateway.identity.store import ApiKeyStore, ChangeStore, SessionStore, UserStore
from services.gateway.identity.tables import SCHEMA
from services.gateway.identity.tokens import JwtSignatures
from services.gateway.listener import Listener
from services.gateway.live.executions import Executions
from services.gateway.live.feed import Feeds, open_feeds
from services.gateway.live.hub import Hub
from services.gateway.live.tasks import Tasks
from services.gateway.peers import Peers, open_peers
from services.gateway.workers.link import Behind as BehindWorkers
from services.gateway.workers.links import Links

VERSION = "0.1.0"

# While the limiter is away, one request a second asks whether it is back; the others do not wait for it.
_LIMITER_FAILURES = 5
_LIMITER_RECOVERY_SECONDS = 1.0


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, in the order in which it is needed; the listener last."""
    listener = Listener(host, settings.http)
    # Hooks run in reverse: the live feed, added below, lets go of its sockets before the listener waits for them.
    host.on_drain("http", listener.drain)
    database = await host.enter(open_database(settings.postgres, SCHEMA))
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("database", database.ping)
    host.health.add("rabbitmq", broker.ping)
    identity = _open_identity(settings.accounts, host, database)
    await _make_admin(settings.accounts, host, identity)
    peers = await open_peers(host, settings.discovery)
    lane = await host.enter(open_lane(host, "ratelimit", settings.discovery, window=1))
    ratelimit = ratelimit_pb2_grpc.RatelimitServiceStub(lane)
    metrics = Metrics(REGISTRY)
    watched = health.Watched(ratelimit=ratelimit, llm=peers.llm, tasks=peers.tasks)
    observation = health.Observation(watched, host.health, metrics, host.clock)
    host.spawn("observation", observation.watch())
    feeds = Feeds(executions=Hub(host.clock, Executions(peers.agents)), tasks=Hub(host.clock, Tasks(peers.tasks)))
    await open_feeds(host, broker, feeds, _health_score(host))
    behind = Behind(
        peers=peers,
        identity=identity,
        feeds=feeds,
        links=_open_links(settings, host, peers, broker),
        submissions=Submissions(peers.tasks, peers.task_lane),
        clock=host.clock,
        chat_timeout_seconds=settings.http.chat_timeout_seconds,
        version=VERSION,
    )
    layers = Layers(
        security=_security(settings.http),
        identities=identity,
        limits=await _open_limits(host, ratelimit),
        metrics=metrics,
    )
    app = create_app(behind, more=health.operations(observation))
    edge = Edge(app, layers, _rules(), host.clock, body_limit_bytes=settings.http.body_limit_bytes)
    await listener.start(edge)
    await _announce(settings, host)


def _open_links(settings: Settings, host: Host, peers: Peers, broker: Broker) -> Links:
    behind = BehindWorkers(
        workers=peers.workers,
        tasks=peers.tasks,
        broker=broker,
        queue_type=settings.rabbit.queue_type,
        clock=host.clock,
    )
    links = Links(behind, host.settings.drain_seconds)
    host.on_drain("workers", links.drain)
    return links


async def _open_limits(host: Host, ratelimit: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub") -> Limits:
    breaker = Breaker(
        "ratelimit", host.clock, failure_threshold=_LIMITER_FAILURES, recovery_seconds=_LIMITER_RECOVERY_SECONDS
    )
    limits = Limits(ratelimit, breaker, host.clock, REGISTRY)
    await host.enter(limits.holds.open())
    host.spawn("holds", limits.holds.run())
    host.spawn("rules", limits.watch.run())
    return limits


async def _announce(settings: Settings, host: Host) -> None:
    address, port = settings.process.reachable_at, settings.http.port
    scheme = "https" if settings.http.tls_certificate else "http"
    check = f"{scheme}://{address}:{port}/readyz"
    await host.enter(register(host, settings.discovery, "gateway", address, port, http_check=check))


def _open_identity(accounts: Accounts, host: Host, database: Database) -> Identity:
    cache = VerifiedCredentials(host.clock, capacity=accounts.verified_credentials)
    host.spawn("revocations", Invalidation(ChangeStore(database), cache, host.clock).run())
    signatures = JwtSignatures(
        accounts.secret.get_secret_value(),
        accounts.algorithm,
        issuer=accounts.issuer,
        audience=accounts.audience,
        lifetime_seconds=accounts.access_seconds,
    )
    ports = Ports(
        users=UserStore(database),
        sessions=SessionStore(database),
        api_keys=ApiKeyStore(database),
        passwords=host.enter_sync(open_passwords()),
        signatures=signatures,
    )
    return Identity(
        ports, cache, host.clock, access_seconds=accounts.access_seconds, refresh_seconds=accounts.refresh_seconds
    )


async def _make_admin(accounts: Accounts, host: Host, identity: Identity) -> None:
    """The account is there before the first request, unless Postgres is away; then it follows."""
    if not accounts.admin_username:
        return
    password = accounts.admin_password.get_secret_value()
    wish = first_admin(accounts.admin_username, accounts.admin_email, password)
    if not await administrator.exists(identity, wish):
        host.spawn("first-admin", administrator.keep_trying(identity, wish))


def _security(http: Http) -> Security:
    return Security(SecuritySettings(origins=http.origins, hosts=http.hosts, proxies=http.proxies, tls=http.is_tls))


def _rules() -> Rules:
    return Rules(
        classify=classify,
        is_public=is_public,
        render=render,
        client_gone=ClientGone,
        speaks_openai=lambda path: dialect_of(path) is Dialect.OPENAI,
        answer_tokens=answer_tokens,
    )


def _health_score(host: Host) -> Callable[[], float]:
    def score() -> float:
        checks = host.health.checks
        return sum(check.ok for check in checks) / len(checks) if checks else 1.0

    return score
