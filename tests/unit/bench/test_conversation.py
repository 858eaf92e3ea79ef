"""How the benchmark talks with the programs that submit."""

import io
import json
import threading

import pytest

from bench.peers.conversation import serve_async, serve_threads


@pytest.fixture
def say(monkeypatch, capsys):
    """Puts commands where a program reads them; afterwards returns its answers."""

    def said(*commands):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(one) + "\n" for one in commands)))
        return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return said


def test_threads_share_the_tasks_of_a_command(say):
    """Ten tasks, four callers: each task is submitted once, and told by its id."""
    answers = say({"count": 10, "callers": 4, "rate": 0.0})
    lock = threading.Lock()
    submitted: list[str] = []

    def submit():
        with lock:
            submitted.append(f"task-{len(submitted)}")
            return submitted[-1]

    serve_threads(submit)
    ready, answer = answers()
    assert ready == {"ready": True}
    assert sorted(answer["ids"]) == sorted(submitted)
    assert len(submitted) == 10
    assert answer["calls"] == []


async def test_a_rate_asks_for_each_call(say):
    """What is submitted at a rate is told with the moments of call and answer."""
    answers = say({"count": 3, "callers": 2, "rate": 1000.0})
    left = iter(["a", "b", "c"])

    async def submit():
        return next(left)

    await serve_async(submit)
    [_, answer] = answers()
    assert [call[0] for call in answer["calls"]] == ["a", "b", "c"]
    assert all(called <= answered for _, called, answered in answer["calls"])


async def test_batches_are_whole(say):
    """Seven tasks in batches of three are two batches."""
    answers = say({"count": 7, "callers": 2, "rate": 0.0, "batch": 3})

    async def submit():
        raise AssertionError("not one by one")

    async def submit_many(count):
        return ["task"] * count

    await serve_async(submit, submit_many)
    [_, answer] = answers()
    assert len(answer["ids"]) == 6
