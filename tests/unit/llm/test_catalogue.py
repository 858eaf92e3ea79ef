"""Which model answers for which name, while providers come and go."""

import pytest

from chassis.errors import Invalid, Unavailable
from services.llm.model import Model, ModelStatus
from services.llm.operations import Catalogue
from tests.support.clock import FakeClock
from tests.unit.llm.fakes import FakeProvider, source


class World:
    """Ollama that may be there, a hosted provider, and echo."""

    def __init__(self, default_model: str = "") -> None:
        self.clock = FakeClock()
        self.ollama = FakeProvider("ollama", default_model="tinyllama")
        self.ollama.error = Unavailable()
        self.openai = FakeProvider("openai", "big", "small", default_model="small")
        self.echo = FakeProvider("echo", "echo", default_model="echo")
        self.changes: list[tuple[str, bool]] = []
        self.sources = [
            source(self.ollama, self.clock, expected=False),
            source(self.openai, self.clock),
            source(self.echo, self.clock),
        ]
        self.catalogue = Catalogue(
            self.sources,
            clock=self.clock,
            default_model=default_model,
            on_change=lambda name, answers: self.changes.append((name, answers)),
        )

    def asked(self, name: str) -> tuple[str, str]:
        route = self.catalogue.route(name)
        return route.provider.name, route.model


@pytest.fixture
async def world() -> World:
    made = World()
    await made.catalogue.refresh()
    return made


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("", ("openai", "small")),
        ("gpt", ("openai", "small")),
        ("openai", ("openai", "small")),
        ("big", ("openai", "big")),
        ("openai/big", ("openai", "big")),
        ("echo", ("echo", "echo")),
    ],
)
async def test_names_find_their_model(world, name, answers):
    """A model's name, its full name, a provider's names, and none at all."""
    assert world.asked(name) == answers


@pytest.mark.parametrize("name", ["tinyllama", "claude", "ollama", "gpt-9", "openai/none", "x" * 500])
async def test_unknown_names_are_refused(world, name):
    """Nobody pretends to be a model that is not there."""
    with pytest.raises(Invalid) as refused:
        world.catalogue.route(name)
    assert refused.value.code == "MODEL_NOT_FOUND"
    assert len(refused.value.message) < 200


async def test_ollama_is_the_default_once_it_is_found(world):
    """It comes first, with the model that is preferred, and answers for its aliases."""
    tiny = Model(name="tinyllama", provider="ollama", aliases=("tinyllama:latest",))
    world.ollama.error, world.ollama.has = None, [Model(name="aaa", provider="ollama"), tiny]
    await world.catalogue.refresh()
    assert world.asked("") == world.asked("ollama") == world.asked("tinyllama:latest") == ("ollama", "tinyllama")
    assert world.catalogue.default_model == "tinyllama"
    assert ("ollama", True) in world.changes


async def test_one_that_went_away_stays_the_default(world):
    """Another model is not the same answer; its own are shown as unavailable."""
    world.openai.error = Unavailable()
    await world.catalogue.refresh()
    assert world.asked("") == ("openai", "small")
    statuses = {model.name: model.status for model in world.catalogue.models}
    assert statuses == {"big": "unavailable", "small": "unavailable", "echo": "available"}
    assert [p.available for p in world.catalogue.providers] == [False, True]
    world.openai.error = None
    await world.catalogue.refresh()
    assert world.catalogue.models[0].status is ModelStatus.AVAILABLE
    assert world.changes[-2:] == [("openai", False), ("openai", True)]


async def test_a_configured_provider_is_asked_before_it_ever_answered():
    """Its preferred model is known by configuration, so its failure shows as its own."""
    world = World()
    world.openai.error = Unavailable()
    await world.catalogue.refresh()
    assert world.asked("") == world.asked("gpt") == ("openai", "small")


async def test_without_anybody_echo_answers(world):
    """A mesh without a model still has every path."""
    world.openai.has.clear()
    world.openai.default_model = ""
    await world.catalogue.refresh()
    assert world.asked("") == ("echo", "echo")


async def test_removed_models_are_gone(world):
    """The list is what the provider says now; routes of the others stay the same objects."""
    before = world.catalogue.route("small")
    world.openai.has = world.openai.has[1:]
    await world.catalogue.refresh()
    assert world.catalogue.route("small") is before
    with pytest.raises(Invalid):
        world.catalogue.route("big")


async def test_the_default_can_be_chosen():
    """By a setting, from the moment on it is there."""
    world = World(default_model="big")
    assert world.catalogue.default_model == "small"
    await world.catalogue.refresh()
    assert world.catalogue.default_model == "big"


async def test_the_last_use_is_shown(world):
    """Of the model itself, whatever name it was asked by."""
    world.catalogue.touch(world.catalogue.route("gpt"), world.clock.now())
    used = {model.name: model.last_used_at for model in world.catalogue.models}
    assert used == {"big": None, "small": world.clock.now(), "echo": None}


async def test_circuits_are_shown(world):
    """An open circuit means unavailable, whatever the list says."""
    world.sources[1].breaker.open()
    state = world.catalogue.providers[0]
    assert (state.name, state.available, state.circuit) == ("openai", False, "open")


async def test_nothing_at_all():
    """Without any provider the default is unavailable, not unknown."""
    catalogue = Catalogue([], clock=FakeClock(), default_model="", on_change=lambda *_: None)
    with pytest.raises(Unavailable):
        catalogue.route("")
    assert catalogue.default_model == ""
