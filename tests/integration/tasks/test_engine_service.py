"""The engine over the wire: graphs, keys, schedules, requeues, channels, partial results and the stream to workers."""

import asyncio
from typing import Any

import grpc
import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.rpc.status import from_rpc_error
from tests.integration.tasks.test_service import Service, eventually, service

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]

__all__ = ["service"]


async def claim(service: Service, session: str) -> pb.Claimed:
    """The next task that somebody points at."""
    while True:
        request = pb.ClaimRequest(session_id=session, pointers=[await service.take()])
        if claimed := (await service.work.Claim(request, timeout=20)).claimed:
            return claimed[0]


async def finish(service: Service, session: str, claimed: pb.Claimed, **outcome: object) -> None:
    ended = pb.Outcome(task_id=claimed.task_id, attempt=claimed.attempt, **outcome)  # type: ignore[arg-type]  # the contract's own fields
    response = await service.work.Finish(pb.FinishRequest(session_id=session, outcomes=[ended]), timeout=20)
    assert list(response.stale) == []


async def test_a_graph_runs_in_its_order(service: Service) -> None:
    """Three tasks in a line, submitted at once, the last one first; each starts when the one before has ended."""
    session = await service.open_session()
    requests = [
        pb.SubmitRequest(kind="automation", owner_id="ann", payload=b"{}", name=name, run_after=after)
        for name, after in (("c", ["#b"]), ("b", ["#a"]), ("a", []))
    ]
    answer = await service.tasks.SubmitMany(pb.SubmitManyRequest(requests=requests), timeout=20)
    ids = [response.task.id for response in answer.responses]
    assert list(answer.responses[0].task.run_after) == [ids[1]]
    for task_id in reversed(ids):
        claimed = await claim(service, session)
        assert claimed.task_id == task_id
        await finish(service, session, claimed, result=b"1")


async def test_a_duplicate_and_a_circle_are_told(service: Service) -> None:
    """The first by a flag, the second by its reason."""
    first = await service.submit(unique_key="u")
    second = await service.submit(unique_key="u")
    assert (second.duplicate, second.task.id, second.task.unique_key) == (True, first.task.id, "u")
    circle = pb.SubmitRequest(kind="automation", owner_id="ann", payload=b"{}", name="a", run_after=["#a"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.tasks.SubmitMany(pb.SubmitManyRequest(requests=[circle]), timeout=20)
    assert from_rpc_error(caught.value, "tasks").code == "DEPENDENCY_CYCLE"


async def test_a_dead_task_is_requeued(service: Service) -> None:
    """It comes to a worker again, with the next attempt."""
    session = await service.open_session()
    submitted = await service.submit(max_attempts=1)
    claimed = await claim(service, session)
    failure = pb.Failure(error=pb.TaskError(code="HANDLER_ERROR", message="no"), retryable=True)
    await finish(service, session, claimed, failure=failure)
    request = pb.RequeueTaskRequest(id=submitted.task.id, owner_id="ann")
    answer = await service.tasks.RequeueTask(request, timeout=20)
    assert (answer.requeued, answer.task.state) == (True, pb.STATE_QUEUED)
    assert (await claim(service, session)).attempt == 2


async def test_a_schedule_submits_every_second(service: Service) -> None:
    """Made, shown, fired, changed, and gone."""
    task = pb.SubmitRequest(kind="automation", payload=b'{"a":1}', priority=pb.PRIORITY_HIGH)
    creating = pb.CreateScheduleRequest(owner_id="ann", name="n", cron="* * * * * *", task=task)
    schedule = (await service.tasks.CreateSchedule(creating, timeout=20)).schedule
    assert (schedule.timezone, schedule.misfire, schedule.task.payload) == ("UTC", pb.MISFIRE_ONCE, b'{"a":1}')
    first, second = await service.take(), await service.take()
    assert first.task_id != second.task_id
    asked = pb.GetTaskRequest(id=first.task_id, owner_id="ann")
    assert (await service.tasks.GetTask(asked, timeout=20)).task.schedule_id == schedule.id
    pausing = pb.UpdateScheduleRequest(id=schedule.id, owner_id="ann", paused=True)
    paused = (await service.tasks.UpdateSchedule(pausing, timeout=20)).schedule
    assert (paused.paused, paused.HasField("next_at"), paused.HasField("last_at")) == (True, False, True)
    listed = await service.tasks.ListSchedules(pb.ListSchedulesRequest(owner_id="ann"), timeout=20)
    assert ([one.id for one in listed.schedules], listed.total) == ([schedule.id], 1)
    await service.tasks.DeleteSchedule(pb.DeleteScheduleRequest(id=schedule.id, owner_id="ann"), timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.tasks.GetSchedule(pb.GetScheduleRequest(id=schedule.id), timeout=20)
    assert from_rpc_error(caught.value, "tasks").code == "SCHEDULE_NOT_FOUND"


async def test_channels_groups_and_workers_are_measured(service: Service) -> None:
    """One task of a channel waits, one has ended; the worker that did it says so."""
    session = await service.open_session()
    await service.submit(payload=b'{"channel":"chat"}')
    await finish(service, session, await claim(service, session), result=b"1")
    await service.submit(payload=b'{"channel":"chat"}')

    async def measured() -> bool:
        channels = (await service.tasks.ListChannels(pb.ListChannelsRequest(), timeout=20)).channels
        return [(one.channel, one.waiting, one.finished) for one in channels] == [("chat", 1, 1)]

    async with asyncio.timeout(20):
        while not await measured():
            await asyncio.sleep(0.1)
    summary = await service.tasks.GetSummary(pb.GetSummaryRequest(), timeout=20)
    (worker,) = summary.workers
    assert (worker.finished, worker.external, list(worker.groups)) == (1, False, ["builtin"])
    assert worker.HasField("last_heartbeat_at")
    (group,) = [group for group in summary.groups if group.group == "builtin"]
    assert (group.waiting, group.limit, group.slots, group.finished) == (1, 100_000, 4, 1)


async def test_a_stop_arrives_by_the_stream(service: Service) -> None:
    """A worker that listens hears of a cancellation without asking, and of a lost session by an error."""
    session = await service.open_session()
    stream = service.work.WatchSession(pb.WatchSessionRequest(session_id=session))
    said = aiter(stream)
    assert list((await anext(said)).cancelled) == []
    await service.submit()
    claimed = await claim(service, session)
    await service.tasks.CancelTask(pb.CancelTaskRequest(id=claimed.task_id, owner_id="ann"), timeout=20)
    async with asyncio.timeout(10):
        (stop,) = (await anext(said)).cancelled
    assert (stop.task_id, stop.attempt) == (claimed.task_id, 1)
    stream.cancel()
    await service.work.CloseSession(pb.CloseSessionRequest(session_id=session), timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.work.WatchSession(pb.WatchSessionRequest(session_id=session)).read()
    assert from_rpc_error(caught.value, "tasks").code == "SESSION_LOST"


async def test_a_connection_that_breaks_gives_its_work_to_others(service: Service) -> None:
    """Nobody says anything and the lease still runs; the task is queued again within two seconds or so."""
    session = await service.open_session(beating=False)
    await service.submit()
    claimed = await claim(service, session)
    stream = service.work.WatchSession(pb.WatchSessionRequest(session_id=session))
    await stream.read()
    stream.cancel()
    await eventually(lambda: [event.type for event in service.events] == ["queued", "started", "queued"], 5.0)
    other = await service.open_session()
    again = await claim(service, other)
    assert (again.task_id, again.attempt) == (claimed.task_id, 2)


async def offer(service: Service, session: str, most: int) -> Any:
    """A stream on which so many may begin; nothing waits in the table any more."""
    await service.submit()
    await finish(service, session, await claim(service, session), result=b"1")
    stream: Any = service.work.Offer(timeout=30)
    await stream.write(pb.OfferRequest(session_id=session, most=most))
    assert (await stream.read()).most == most
    return stream


async def code_of_end(stream: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    return from_rpc_error(caught.value, "tasks").code


async def test_what_is_accepted_begins_in_an_offered_slot(service: Service) -> None:
    """Without a pointer, as far as there are slots; the rest is pointed at."""
    session = await service.open_session()
    stream = await offer(service, session, 2)
    ids = {(await service.submit()).task.id for _ in range(2)}
    began: list[pb.Claimed] = []
    while len(began) < 2:
        began += (await stream.read()).claimed
    assert {one.task_id for one in began} == ids
    assert {(one.attempt, one.kind) for one in began} == {(1, "automation")}
    for claimed in began:
        await finish(service, session, claimed, result=b"1")
    pointed = await service.submit()
    assert (await claim(service, session)).task_id == pointed.task.id
    assert service.pointers.empty()


async def test_a_stream_of_offers_that_is_wrong_ends_with_a_reason(service: Service) -> None:
    """A number that cannot be, an unknown session, no word at all."""
    session = await service.open_session()
    stream = await offer(service, session, 2)
    await stream.write(pb.OfferRequest(most=2, received=9))
    assert await code_of_end(stream) == "VALIDATION_ERROR"
    unknown = service.work.Offer(timeout=30)
    await unknown.write(pb.OfferRequest(session_id="ses_01ARZ3NDEKTSV4RRFFQ69G5FAV", most=1))
    assert await code_of_end(unknown) == "SESSION_LOST"
    silent = service.work.Offer(timeout=30)
    await silent.done_writing()
    assert await code_of_end(silent) == "VALIDATION_ERROR"


async def test_an_offer_whose_worker_left_holds_nothing(service: Service) -> None:
    """What is accepted from then on is another worker's at once."""
    session = await service.open_session()
    stream = await offer(service, session, 5)
    stream.cancel()
    submitted = await service.submit()
    other = await service.open_session()
    async with asyncio.timeout(20):
        assert (await claim(service, other)).task_id == submitted.task.id
