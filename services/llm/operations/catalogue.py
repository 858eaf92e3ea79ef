"""Which models there are and who answers for a name. Everything is answered from memory; the providers are asked in the
background.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from chassis.breaker import Breaker
from chassis.clock import Clock
from chassis.errors import MeshError, Unavailable
from services.llm.model import Model, ModelStatus, ProviderState, unknown_model
from services.llm.ports import Provider

# The names under which clients ask for a provider and not for a model.
ALIASES = {"anthropic": "claude", "openai": "gpt"}
# One that is away is looked for this often, so that its return is noticed soon.
_AWAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """Who answers: `model` is the name the provider knows it by."""

    provider: Provider
    breaker: Breaker
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A provider as it is configured.

    Attributes:
        expected: it is there because somebody configured it, so it is asked even before it has ever answered; else it
            counts from its first answer on.
        refresh_seconds: how often its list is asked for.
    """

    provider: Provider
    breaker: Breaker
    expected: bool
    refresh_seconds: float


class _Known:
    """A source and what it last told."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.models: tuple[Model, ...] = ()
        self.answers = False

    @property
    def preferred(self) -> str:
        """The model that answers for the provider's name; empty when it has none."""
        wanted = self.source.provider.default_model
        names = {model.name for model in self.models}
        if not names:
            return wanted if self.source.expected else ""
        if wanted in names:
            return wanted
        loaded = [model.name for model in self.models if model.status is ModelStatus.LOADED]
        return (loaded or [model.name for model in self.models])[0]


class Catalogue:
    """All providers, most preferred first.

    A provider that went away keeps its models, and stays the default if it was: another one answers in its place only
    when that is asked for by name, because a different model is not the same answer.

    Args:
        default_model: the name to use when none is given; empty for the first provider's.
        on_change: called with a provider's name and whether it answers, whenever that changes.
    """

    def __init__(
        self, sources: Sequence[Source], *, clock: Clock, default_model: str, on_change: Callable[[str, bool], None]
    ) -> None:
        self._known = [_Known(source) for source in sources]
        self._clock = clock
        self._wanted_default = default_model
        self._on_change = on_change
        self._used: dict[Route, datetime] = {}
        self._routes: dict[str, Route] = {}
        self._index()

    def route(self, name: str) -> Route:
        """Who answers for a model's or a provider's name, or (empty) by default. Raises Invalid, MODEL_NOT_FOUND."""
        route = self._routes.get(name)
        if route is None:
            if not name:
                raise Unavailable("No model is available now", code="PROVIDER_ERROR")
            raise unknown_model(name)
        return route

    def touch(self, route: Route, at: datetime) -> None:
        """The model was used."""
        self._used[route] = at

    @property
    def default_model(self) -> str:
        """The model that answers when none is named; empty when there is none at all."""
        route = self._routes.get("")
        return route.model if route is not None else ""

    @property
    def models(self) -> tuple[Model, ...]:
        """Everything that can be asked for."""
        return tuple(self._describe(known, model) for known in self._known for model in known.models)

    def _describe(self, known: _Known, model: Model) -> Model:
        route = self._routes.get(_full_name(known, model.name))
        status = model.status if known.answers else ModelStatus.UNAVAILABLE
        return replace(model, status=status, last_used_at=self._used.get(route) if route is not None else None)

    @property
    def providers(self) -> tuple[ProviderState, ...]:
        """The providers that are configured or were found."""
        return tuple(
            ProviderState(
                name=known.source.provider.name,
                available=known.answers and known.source.breaker.state != "open",
                circuit=known.source.breaker.state,
            )
            for known in self._known
            if known.source.expected or known.models
        )

    async def refresh(self) -> None:
        """Asks every provider once."""
        await asyncio.gather(*(self._ask(known) for known in self._known))

    async def watch(self) -> None:
        """Keeps the lists fresh, for ever."""
        await asyncio.gather(*(self._keep_asking(known) for known in self._known))

    async def _keep_asking(self, known: _Known) -> None:
        while True:
            pause = known.source.refresh_seconds
            await asyncio.sleep(pause if known.answers else min(pause, _AWAY_SECONDS))
            await self._ask(known)

    async def _ask(self, known: _Known) -> None:
        try:
            models = await known.source.provider.models()
        except MeshError:
            # Its models stay known; whoever asks for one hears from the provider itself, or from its breaker.
            self._mark(known, answers=False)
            return
        if models != known.models:
            known.models = models
            self._index()
        self._mark(known, answers=True)

    def _mark(self, known: _Known, *, answers: bool) -> None:
        if answers != known.answers:
            known.answers = answers
            self._on_change(known.source.provider.name, answers)

    def _index(self) -> None:
        """Makes the table of all names anew. The first provider that has a model answers for its bare name."""
        old, routes = self._routes, dict[str, Route]()
        for known in self._known:
            for model in known.models:
                full = _full_name(known, model.name)
                route = old.get(full) or _route(known, model.name)
                for name in (full, model.name, *model.aliases):
                    routes.setdefault(name, route)
        for known in self._known:
            name, preferred = known.source.provider.name, known.preferred
            if preferred:
                route = routes.setdefault(_full_name(known, preferred), _route(known, preferred))
                for alias in (preferred, name, ALIASES.get(name, name)):
                    routes.setdefault(alias, route)
                routes.setdefault("", route)
        if self._wanted_default in routes:
            routes[""] = routes[self._wanted_default]
        self._routes = routes
        alive = set(routes.values())
        self._used = {route: at for route, at in self._used.items() if route in alive}


def _full_name(known: _Known, model: str) -> str:
    return f"{known.source.provider.name}/{model}"


def _route(known: _Known, model: str) -> Route:
    return Route(provider=known.source.provider, breaker=known.source.breaker, model=model)
