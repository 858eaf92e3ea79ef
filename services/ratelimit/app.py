"""The only place that builds things: rules, shadow, store, the servicer, and the metrics of what was decided."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mesh.ratelimit.v1.ratelimit_pb2_grpc import add_RatelimitServiceServicer_to_server
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.discovery import open_discovery
from chassis.lifecycle import Host
from chassis.rpc.server import open_server
from services.ratelimit.config import Settings
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.operations import Limiter
from services.ratelimit.rpc.decisions import DECIDE, RatelimitServicer
from services.ratelimit.rules.file import RuleFile
from services.ratelimit.rules.force import RulesInForce
from services.ratelimit.store import RedisStore
from services.ratelimit.store.board import open_board

# How long a start waits for Redis to tell the rules that were put by the API.
_HEAR_RULES_SECONDS = 2.0


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, the server last. A rules file that is wrong ends the start with its sentence."""
    limits = settings.limits
    url = settings.redis.url.get_secret_value()
    file = RuleFile(Path(limits.file) if limits.file else None)
    rules = RulesInForce(file, await host.enter(open_board(url)), host.clock)
    directory = await host.enter(open_discovery(host, settings.discovery))

    def instances() -> int:
        return limits.instances or max(1, len(directory.instances(host.name)))

    shadow = MemoryShadow(host.clock, instances, cap=limits.shadow_keys)
    store = RedisStore(url, shadow, deadline_seconds=limits.store_deadline_seconds)
    limiter = Limiter(rules=rules, store=store, shadow=shadow)
    servicer = RatelimitServicer(limiter, rules)
    host.enter_sync(_metrics(limiter, rules))
    host.health.add("redis", store.ping)
    host.spawn("redis", store.run())
    await rules.start(_HEAR_RULES_SECONDS)
    host.spawn("rules", rules.follow())
    host.spawn("rules-file", rules.follow_file())
    register = partial(add_RatelimitServiceServicer_to_server, servicer)
    batches = {DECIDE: servicer.decide_frame}
    await host.enter(open_server(host, settings.rpc, settings.discovery, register=[register], batches=batches))
    # Hooks run in reverse: watchers of the rules go before the server waits for its streams to end.
    host.on_drain("watchers", rules.close)


class _Figures(Collector):
    """Reads the tally when it is asked for metrics, so that deciding pays nothing for them."""

    def __init__(self, limiter: Limiter, rules: RulesInForce) -> None:
        self._limiter = limiter
        self._rules = rules

    def collect(self) -> Iterable[Metric]:
        tally = self._limiter.tally
        decisions = CounterMetricFamily("mesh_ratelimit_decisions", "Decisions taken", labels=["outcome"])
        decisions.add_metric(["allowed"], tally.decisions - tally.denied)
        decisions.add_metric(["denied"], tally.denied)
        yield decisions
        yield CounterMetricFamily(
            "mesh_ratelimit_degraded_decisions", "Decisions taken without Redis", value=tally.degraded
        )
        yield GaugeMetricFamily(
            "mesh_ratelimit_store_ready", "Whether Redis decides now", value=float(self._limiter.store_ready)
        )
        yield GaugeMetricFamily(
            "mesh_ratelimit_rules_refused", "Whether the rules file is wrong", value=float(bool(self._rules.problem))
        )


@contextmanager
def _metrics(limiter: Limiter, rules: RulesInForce) -> Iterator[None]:
    figures = _Figures(limiter, rules)
    REGISTRY.register(figures)
    try:
        yield
    finally:
        REGISTRY.unregister(figures)
