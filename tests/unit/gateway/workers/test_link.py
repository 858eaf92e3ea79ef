"""A worker's socket: from register to the end, and what it may not say."""

import asyncio
import json
from typing import Any

import pytest

from chassis.errors import Unavailable
from services.gateway.workers import conversation, link
from tests.unit.gateway.workers.world import KIND, TASK, Service, Worker

HELD = {"task_id": TASK, "attempt": 1}


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def worker(service: Service) -> Worker:
    return await Worker(service).connect()


async def working(worker: Worker, **fields: Any) -> Worker:
    """Registered, with one task assigned."""
    await worker.register(**fields)
    worker.assign()
    await worker.hear("assign")
    return worker


async def test_a_worker_registers_and_is_given_work(worker: Worker, service: Service):
    """With what it needs to know of both."""
    registered = await worker.register(slots=2)
    assert (registered["worker_id"], registered["session_id"], registered["kinds"]) == ("3", "ses_1", [KIND])
    assert (registered["resumed"], registered["held"], registered["slots"]) == (False, [], 2)
    assert service.opened[0].external
    assert service.opened[0].kinds[0].group.startswith("ext-echo-")
    worker.assign()
    assert await worker.hear("assign") == {
        "type": "assign",
        "task_id": TASK,
        "attempt": 1,
        "task_type": KIND,
        "data": {"x": 1},
        "timeout_seconds": 30,
        "max_attempts": 0,
    }


async def test_a_result_is_acknowledged_after_its_commit(worker: Worker, service: Service):
    """Also when the service was away for a moment, and again when it is said again."""
    await working(worker)
    service.failures = [Unavailable(), Unavailable()]
    worker.say("accept", **HELD)
    worker.say("result", **HELD, result={"y": 2})
    said = await worker.hear("acknowledged")
    assert said == {"type": "acknowledged", "of": "result", **HELD}
    assert json.loads(service.outcomes[0].result) == {"y": 2}
    worker.say("result", **HELD, result={"y": 2})
    assert await worker.hear("acknowledged") == said
    assert len(service.outcomes) == 1


async def test_failures_and_stops_are_outcomes(worker: Worker, service: Service):
    """With their reason, and whether another attempt makes sense."""
    await working(worker)
    worker.say("fail", **HELD, error={"code": "BROKEN", "message": "it broke"}, retryable=False)
    assert (await worker.hear("acknowledged"))["of"] == "fail"
    failure = service.outcomes[0].failure
    assert (failure.error.code, failure.error.message, failure.retryable) == ("BROKEN", "it broke", False)
    worker.assign(attempt=2)
    service.cancelled.add((TASK, 2))
    assert (await worker.hear("cancel"))["attempt"] == 2
    worker.say("cancelled", task_id=TASK, attempt=2)
    await worker.hear("acknowledged")
    assert service.outcomes[1].cancelled


async def test_progress_goes_on_at_a_pace(worker: Worker, service: Service):
    """The latest word of half a second."""
    await working(worker)
    for fraction in (0.1, 0.2, 0.3):
        worker.say("progress", **HELD, progress=fraction, message="on my way", partial={"lines": 3})
    async with asyncio.timeout(30):
        while not service.progress:
            await asyncio.sleep(0.01)
    assert [round(said.progress, 1) for said in service.progress] == [0.3]
    assert json.loads(service.progress[0].partial) == {"lines": 3}


async def test_a_rejected_task_goes_back_after_a_moment(service: Service):
    """For another worker."""
    worker = await working(await Worker(service).connect())
    worker.say("reject", **HELD, reason="no time")
    async with asyncio.timeout(30):
        while not service.handed_back:
            worker.clock.advance(0.5)
            await asyncio.sleep(0.01)
    assert service.handed_back == [(TASK, 1)]


async def test_what_is_not_accepted_in_time_is_taken_back(
    worker: Worker, service: Service, monkeypatch: pytest.MonkeyPatch
):
    """And a worker that accepts nothing is let go."""
    monkeypatch.setattr(conversation, "_LOOK_SECONDS", 0.01)
    await worker.register(slots=3)
    for attempt in (1, 2, 3):
        worker.assign(attempt=attempt, task_id=f"{TASK[:-1]}{attempt}")
    await worker.wait(11)
    assert (await worker.hear("revoke"))["reason"] == "NOT_ACCEPTED"
    assert (await worker.hear("error"))["error"]["code"] == "NOT_ACCEPTING"
    assert await worker.until_closed() == (4408, "NOT_ACCEPTING")
    assert len(service.handed_back) == 3


async def test_a_bare_client_only_sends_results(service: Service):
    """It says nothing of kinds or attempts; its address says what it does."""
    worker = await Worker(service, query=f"kinds={KIND}&slots=2").connect()
    async with asyncio.timeout(30):
        while not service.opened:
            await asyncio.sleep(0.01)
    worker.assign()
    assigned = await worker.hear("assign")
    worker.clock.advance(60)
    worker.say(task_id=assigned["task_id"], result={"ok": True})
    await worker.hear("acknowledged")
    assert json.loads(service.outcomes[0].result) == {"ok": True}
    assert "registered" not in {frame["type"] for frame in worker.heard}


async def test_a_broken_socket_may_be_come_back_to(service: Service):
    """The session goes on, with what it holds; the lease is short meanwhile."""
    worker = await working(await Worker(service).connect())
    worker.leave()
    await worker.until_closed()
    assert (service.closed, service.handed_back) == ([], [])
    back = await Worker(service).connect()
    registered = await back.register(session_id="ses_1")
    assert (registered["resumed"], registered["held"]) == (True, [HELD])
    back.say("result", **HELD, result=1)
    await back.hear("acknowledged")


async def test_a_worker_that_comes_back_in_time_loses_nothing(service: Service):
    """Its old socket lingers no longer, and the lease is never shortened."""
    worker = await working(await Worker(service).connect())
    worker.leave()
    back = await Worker(service, links=worker.links).connect()
    assert (await back.register(session_id="ses_1"))["held"] == [HELD]
    await worker.until_closed()
    assert service.closed == []


async def test_a_newer_socket_takes_over(service: Service):
    """The older one may look alive for a while."""
    worker = await working(await Worker(service).connect())
    back = await Worker(service, links=worker.links).connect()
    assert (await back.register(session_id="ses_1"))["resumed"]
    assert await worker.until_closed() == (4409, "Another connection goes on with this session")
    assert service.closed == []


async def test_a_result_that_was_committed_before_is_acknowledged_again(service: Service):
    """The answer was lost with the connection; the session went on over another."""
    worker = await working(await Worker(service).connect())
    worker.say("result", **HELD, result=1)
    await worker.hear("acknowledged")
    worker.leave()
    service.ended[TASK] = 1
    back = await Worker(service, links=worker.links).connect()
    assert (await back.register(session_id="ses_1"))["held"] == []
    back.say("result", **HELD, result=1)
    assert await back.hear("acknowledged") == {"type": "acknowledged", "of": "result", **HELD}
    assert len(service.outcomes) == 1


async def test_what_ended_elsewhere_is_not_acknowledged(worker: Worker, service: Service):
    """What a worker says of an attempt that nobody knows the holder of has no effect; of another one it is a fault."""
    await worker.register()
    service.ended[TASK] = 2
    worker.say("result", task_id=TASK, attempt=2, result=1)
    assert (await worker.hear("lease_lost"))["attempts"] == [{"task_id": TASK, "attempt": 2}]
    worker.say("result", **HELD, result=1)
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]
    worker.say("result", task_id=TASK, attempt=3, result=1)
    assert await worker.until_closed() == (4409, "STALE_ATTEMPT")
    assert "acknowledged" not in {frame["type"] for frame in worker.heard}
    assert service.outcomes == []


async def test_a_lost_session_is_replaced(worker: Worker, service: Service):
    """The worker learns what is not its own any more, and goes on."""
    await working(worker)
    service.lost.add("ses_1")
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]
    assert (await worker.hear("registered"))["session_id"] == "ses_2"
    worker.say("result", **HELD, result=1)
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]
    assert (service.outcomes, worker.closed) == ([], None)


async def test_a_fenced_attempt_is_named(worker: Worker, service: Service):
    """The service gave it to somebody else."""
    await working(worker)
    service.sessions["ses_1"].clear()
    assert (await worker.hear("lease_lost"))["attempts"] == [HELD]


async def test_a_worker_drains_when_it_wants(worker: Worker, service: Service):
    """What it holds it may finish."""
    await working(worker)
    worker.say("drain")
    worker.say("result", **HELD, result=1)
    await worker.hear("drained")
    assert await worker.until_closed() == (1000, "Drained")
    assert service.closed[0] is True


async def test_a_drain_of_the_gateway_hands_back(worker: Worker, service: Service):
    """After a while; the worker is told first, and what is taken from it."""
    await working(worker)
    worker.say("accept", **HELD)
    draining = asyncio.ensure_future(worker.links.drain())
    assert (await worker.hear("drain"))["seconds"] > 0
    worker.clock.advance(60)
    assert (await worker.hear("revoke"))["reason"] == "GOING_AWAY"
    closed = await worker.until_closed()
    assert closed is not None
    assert closed[0] == 1001
    await draining
    assert service.handed_back == [(TASK, 1)]
    with pytest.raises(Unavailable):
        worker.links.check_room()


@pytest.mark.parametrize(
    ("frame", "code", "close"),
    [
        ("nonsense", "INVALID_JSON", 4400),
        ("[]", "INVALID_FRAME", 4400),
        ('{"type":"dance"}', "INVALID_FRAME", 4400),
        ('{"type":"register","kinds":["echo"]}', "OUT_OF_ORDER", 4400),
        ('{"type":"accept","task_id":"task_1"}', "INVALID_FRAME", 4400),
        ('{"type":"accept","task_id":"task_1","attempt":1}', "STALE_ATTEMPT", 4409),
        ('{"type":"progress","task_id":"task_1","attempt":1,"progress":2}', "INVALID_FRAME", 4400),
        ('{"type":"result","task_id":"task_1","attempt":1,"result":1}', "STALE_ATTEMPT", 4409),
        ('{"task_id":"task_1","result":1}', "STALE_ATTEMPT", 4409),
        ('{"type":"result","result":"' + "x" * 600_000 + '"}', "FRAME_TOO_LARGE", 1009),
        ('{"type":"ping","x":' + "[" * 80 + "]" * 80 + "}", "INVALID_JSON", 4400),
    ],
)
async def test_a_worker_that_says_what_it_must_not_is_let_go(worker: Worker, frame: str, code: str, close: int):
    """It is told why; what it held goes elsewhere, and nothing is stored."""
    await working(worker)
    worker.say_text(frame)
    assert (await worker.hear("error"))["error"]["code"] == code
    assert await worker.until_closed() == (close, code)
    assert worker.service.outcomes == []
    assert worker.service.handed_back == [(TASK, 1)]
    assert worker.service.closed == [False]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "accept", **HELD}, "OUT_OF_ORDER"),
        ({"type": "register", "kinds": []}, "INVALID_FRAME"),
        ({"type": "register", "kinds": ["a b"]}, "INVALID_FRAME"),
        ({"type": "register", "kinds": ["sentiment_analysis"]}, "KIND_TAKEN"),
        ({"type": "register", "kinds": ["agent.run"]}, "KIND_TAKEN"),
        ({"type": "register", "kinds": ["billing"]}, "KIND_TAKEN"),
        ({"type": "register", "kinds": ["echo"], "slots": 0}, "INVALID_FRAME"),
    ],
)
async def test_a_bad_beginning_ends_at_once(worker: Worker, service: Service, frame: Any, code: str):
    """Before a session is opened."""
    worker.say_text(json.dumps(frame))
    assert (await worker.hear("error"))["error"]["code"] == code
    await worker.until_closed()
    assert service.opened == []


async def test_a_bad_frame_is_told_its_field(worker: Worker):
    """As the worker wrote it, without the types that were tried."""
    worker.say_text('{"type":"register","kinds":["a b"]}')
    assert (await worker.hear("error"))["error"]["message"].startswith("kinds.0: ")


async def test_pings_are_answered(worker: Worker):
    """Before and after it is known."""
    worker.say("ping")
    await worker.hear("pong")
    await worker.register()
    worker.say("ping")
    worker.say("pong")
    await worker.hear("pong")
    assert worker.closed is None


async def test_a_worker_that_does_not_read_is_let_go(worker: Worker):
    """Its frames are bounded, and none of them may be lost."""
    await worker.register()
    for _ in range(5000):
        worker.link._outbox._frames.append("{}")
    worker.say("ping")
    closed = await worker.until_closed()
    assert closed is not None
    assert closed[0] == 1013


async def test_a_farewell_that_is_not_read_ends_quietly(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """A worker that is let go and does not read is left without a close, and nothing fails."""
    monkeypatch.setattr(link, "_FAREWELL_SECONDS", 0.05)
    await worker.register()
    worker.reads.clear()
    worker.say_text("nonsense")
    assert await worker.until_closed() is None
    assert worker.service.closed == [False]


async def test_a_cancelled_farewell_is_cancelled(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """The server's own end does not wait for a worker that does not read."""
    monkeypatch.setattr(link, "_FAREWELL_SECONDS", 60.0)
    await worker.register()
    worker.reads.clear()
    worker.say_text("nonsense")
    async with asyncio.timeout(30):
        # The session is closed right before the farewell begins.
        while not worker.service.closed:
            await asyncio.sleep(0)
    worker.session.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker.until_closed()
