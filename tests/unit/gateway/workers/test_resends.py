"""A worker that says again what it has not heard the answer to, and one whose gateway stood still, are not at fault."""

import asyncio

import pytest
from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Unavailable
from services.gateway.workers import conversation
from tests.unit.gateway.workers.world import KIND, TASK, Service, Worker

HELD = {"task_id": TASK, "attempt": 1}
FAILED = HELD | {"error": {"code": "BROKEN", "message": "it broke"}}


@pytest.fixture
def service() -> Service:
    return Service()


async def working(service: Service) -> Worker:
    """Registered, with one task assigned."""
    worker = await Worker(service).connect()
    await worker.register()
    worker.assign()
    await worker.hear("assign")
    return worker


async def test_a_failure_is_acknowledged_again_after_the_session_is_over(service: Service):
    """Its worker came back too late to go on with it, and asks for the answer that was lost."""
    worker = await working(service)
    worker.say("fail", **FAILED)
    said = await worker.hear("acknowledged")
    worker.leave()
    await worker.until_closed()
    service.lost.add("ses_1")
    back = await Worker(service, links=worker.links).connect()
    assert not (await back.register(session_id="ses_1"))["resumed"]
    back.say("fail", **FAILED)
    assert await back.hear("acknowledged") == said
    assert (len(service.outcomes), back.closed) == (1, None)


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (1, tasks_pb2.STATE_SCHEDULED),
        (1, tasks_pb2.STATE_QUEUED),
        (1, tasks_pb2.STATE_DEAD),
        (2, tasks_pb2.STATE_RUNNING),
        (3, tasks_pb2.STATE_SUCCEEDED),
    ],
)
async def test_another_gateway_blames_nobody_for_it(service: Service, last: int, state: tasks_pb2.State.ValueType):
    """Nobody knows there who held the attempt, whatever has become of the task; while it runs it is somebody else's."""
    worker = await Worker(service).connect()
    await worker.register(session_id="ses_of_long_ago")
    service.ended[TASK], service.state = last, state
    worker.say("fail", **FAILED)
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]
    service.ended[TASK], service.state = 1, tasks_pb2.STATE_RUNNING
    worker.say("fail", **FAILED)
    assert await worker.until_closed() == (4409, "STALE_ATTEMPT")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("result", {"result": 1}),
        ("fail", {"error": {"code": "BROKEN", "message": "it broke"}}),
        ("cancelled", {}),
    ],
)
async def test_an_end_whose_answer_the_gateway_did_not_get_is_acknowledged(service: Service, kind, more):
    """The gateway reports it again, and hears that it stands."""
    worker = await working(service)
    service.unheard = 1
    worker.say(kind, **HELD, **more)
    assert await worker.hear("acknowledged") == {"type": "acknowledged", "of": kind, **HELD}
    assert len(service.outcomes) == 1


async def test_an_end_that_had_no_effect_is_not_acknowledged(service: Service):
    """The attempt was ended otherwise before."""
    worker = await working(service)
    service.sessions["ses_1"].clear()
    service.ended[TASK], service.state = 1, tasks_pb2.STATE_DEAD
    worker.say("result", **HELD, result=1)
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]


async def test_what_a_worker_says_before_it_is_known_again_waits(service: Service):
    """Its work goes on while another gateway takes its session over, and may end before the answer is there."""
    worker = await working(service)
    worker.leave()
    back = await Worker(service).connect()
    service.failures = [Unavailable()]
    back.say("register", kinds=[KIND], session_id="ses_1")
    back.say("progress", **HELD, progress=0.5)
    back.say("result", **HELD, result=1)
    assert (await back.hear("registered"))["held"] == [HELD]
    await back.hear("acknowledged")
    assert (len(service.outcomes), back.closed) == (1, None)


async def test_workers_are_not_blamed_for_a_gateway_that_stood_still(service: Service, monkeypatch: pytest.MonkeyPatch):
    """What they said meanwhile is not read yet; from then on they have the time that is theirs."""
    monkeypatch.setattr(conversation, "_LOOK_SECONDS", 0.01)
    worker = await working(service)
    worker.clock.advance(60)
    await asyncio.sleep(0.1)
    worker.say("accept", **HELD)
    await worker.wait(12)
    worker.say("result", **HELD, result=1)
    await worker.hear("acknowledged")
    assert service.handed_back == []
