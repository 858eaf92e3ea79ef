"""Models fetched from Ollama's API over real sockets."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from chassis.errors import DeadlineExceeded, Invalid, MeshError, Unavailable
from services.llm.model import Fetched
from services.llm.providers.connections import open_session
from services.llm.providers.http import Client, Site
from services.llm.providers.ollama_library import OllamaLibrary
from tests.support.clock import FakeClock
from tests.support.upstream import Upstream, upstream


@dataclass
class Case:
    """A library and the server behind it."""

    library: OllamaLibrary
    server: Upstream

    async def pull(self, model: str) -> list[Fetched]:
        async with aclosing(self.library.pull(model)) as steps:
            return [step async for step in steps]


@pytest.fixture
def trouble() -> str:
    """What goes wrong from the start."""
    return ""


@pytest.fixture
async def case(trouble: str) -> AsyncIterator[Case]:
    # Short only where silence is what a test is about: a machine may be slow as well.
    idle_seconds = 0.5 if trouble in {"stall", "silent"} else 20.0
    async with upstream() as server, open_session(connections=2) as session:
        server.trouble = trouble
        site = Site(provider="ollama", url=server.url, error_code="OLLAMA_ERROR", idle_seconds=idle_seconds)
        yield Case(OllamaLibrary(Client(session, site, FakeClock())), server)


async def test_a_model_is_fetched_step_by_step(case: Case):
    """The bytes of all layers that are known so far; the last step is its success."""
    steps = await case.pull("llama2")
    assert case.server.received == [{"model": "llama2", "stream": True}]
    assert [(step.done_bytes, step.total_bytes) for step in steps] == [
        (0, 0),
        (0, 2_000),
        (1_000, 2_000),
        (2_000, 2_000),
        (2_000, 3_000),
        (2_500, 3_000),
        (3_000, 3_000),
        (3_000, 3_000),
        (3_000, 3_000),
    ]
    assert steps[-1].status == "success"


async def test_a_model_that_nobody_publishes_is_not_found(case: Case):
    """Asking again would not help."""
    with pytest.raises(Invalid) as refused:
        await case.pull("nobodys")
    assert refused.value.code == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ("500", Unavailable),
        ("error", Unavailable),
        ("die", Unavailable),
        ("garbage", Unavailable),
        ("end", Unavailable),
        ("stall", DeadlineExceeded),
        ("silent", DeadlineExceeded),
    ],
)
async def test_trouble_may_pass(case: Case, kind: type[MeshError]):
    """A full disk, a silence, half an answer: another attempt may go better, so none of it ends as a success."""
    with pytest.raises(kind):
        await case.pull("llama2")


async def test_who_stops_listening_stops_the_fetching(case: Case):
    """A cancelled task keeps no download alive."""
    case.server.trouble = "stall"
    steps = case.library.pull("llama2")
    async for _ in steps:
        break
    await steps.aclose()
    await case.server.left.wait()
