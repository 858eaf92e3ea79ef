"""One exchange on raw ASGI: bodies, and clients that leave."""

import asyncio
from typing import Any

import pytest

from services.gateway.apis.exchange import Attendance, ClientGone, event, header, read_body


def inbox(*messages: dict[str, Any], then: asyncio.Event | None = None):
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await (then or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return receive


async def test_a_body_in_parts_is_joined():
    """Servers split large bodies as they like."""
    parts = (
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": True},
        {"type": "http.request"},
    )
    assert await read_body(inbox(*parts)) == b"abc"


@pytest.mark.parametrize("sent", [[], [{"type": "http.request", "body": b"ab", "more_body": True}]])
async def test_a_client_that_leaves_while_it_sends_is_gone(sent):
    """Half a body is none."""
    with pytest.raises(ClientGone):
        await read_body(inbox(*sent, {"type": "http.disconnect"}))


async def test_work_ends_when_the_client_leaves():
    """The awaited call is cancelled, which is how the model behind it is stopped."""
    gone, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        gone.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientGone), Attendance(inbox(then=gone)):
        await work()
    assert cancelled.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_stays_one():
    """A server that stops must not be told that its client has left."""

    async def serve() -> None:
        with Attendance(inbox()):
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_of_the_work_pass():
    """Attendance is about the client alone."""
    with pytest.raises(ValueError, match="broken"), Attendance(inbox()):
        raise ValueError("broken")


async def test_a_quick_answer_starts_no_watcher():
    """Under load nearly every answer is quick, and a task each would be paid for nothing."""
    before = len(asyncio.all_tasks())
    with Attendance(inbox()):
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before


def test_headers_are_found_by_name():
    """The first of that name."""
    scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]}
    assert (header(scope, b"b"), header(scope, b"c")) == ("2", "")


def test_an_event_is_one_line_of_json():
    """A line break inside would end it."""
    assert event({"token": "a\nb"}) == b'data: {"token":"a\\nb"}\n\n'
