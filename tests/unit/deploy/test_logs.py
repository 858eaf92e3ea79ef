"""Logs stay small on disk and become readable in a terminal."""

import json
from pathlib import Path

import pytest

from deploy.local.follow import Tail
from deploy.local.logs import BoundedLog, is_store_warning, readable, render, says_ready

READY = {"event": "Ready", "logger": "chassis.lifecycle", "level": "info"}


def test_a_full_log_begins_anew(tmp_path: Path):
    """At most two files of the limit exist, and the newest lines are kept."""
    log = BoundedLog(tmp_path / "x.log", limit_bytes=100)
    for number in range(100):
        log.write(f"line {number}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 250
    assert log.tail(1) == ["line 99"]


def test_a_log_nobody_wrote_has_no_end(tmp_path: Path):
    """Asking for the last lines of nothing gives none."""
    assert BoundedLog(tmp_path / "x.log").tail(5) == []


def test_json_becomes_a_sentence():
    """The event leads, values follow, and what every line has is left out."""
    line = json.dumps({"event": "Accepted", "level": "warning", "service": "tasks", "task": 7})
    assert readable(line) == ("warning", "Accepted task=7")


@pytest.mark.parametrize("line", ["plain words", "[1, 2]", '{"no": "event"}', ""])
def test_other_lines_stay_as_they_are(line: str):
    """What is not one of our JSON lines is shown unchanged."""
    assert readable(line) == ("info", line)


def test_an_exception_stands_under_the_same_name():
    """Every line of a trace carries the prefix."""
    line = json.dumps({"event": "Broke", "level": "error", "exception": "Trace\n  at"})
    assert render("tasks", line, colour=False, width=5).splitlines() == [
        "tasks | Broke",
        "tasks | Trace",
        "tasks |   at",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-21 10:00:00.1+00:00 [warning] <0.1.0> low memory",
        "2026-11-21 10:00:00.1 UTC [7] FATAL:  password authentication failed",
        "    2026-11-21T10:00:00Z [WARN]  agent: check failed",
    ],
)
def test_warnings_of_stores_are_shown(line: str):
    """Each store's own notation of a warning is known."""
    assert is_store_warning(line)


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-21 10:00:00.1+00:00 [info] <0.1.0> started",
        "2026-11-21 10:00:00.1 UTC [7] LOG:  ready",
        "7:M 21 Nov 2026 10:00:00.675 * Ready to accept connections",
    ],
)
def test_other_lines_of_stores_are_not(line: str):
    """What stores say of their ordinary life stays in their files."""
    assert not is_store_warning(line)


@pytest.mark.parametrize(
    ("line", "ready"),
    [
        (json.dumps(READY), True),
        (json.dumps(READY | {"logger": "services.llm"}), False),
        ('"Ready" is a word', False),
        (json.dumps(["Ready"]), False),
    ],
)
def test_only_the_chassis_says_ready(line: str, ready: bool):
    """The same word of somebody else means nothing."""
    assert says_ready(line) is ready


def test_following_a_log_over_its_replacement(tmp_path: Path):
    """Whole lines are read once each, also when the file was replaced in between."""
    path = tmp_path / "x.log"
    path.write_text("before\n", encoding="utf-8")
    tail = Tail(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("one\nhal")
    assert tail.read() == ["one"]
    with path.open("a", encoding="utf-8") as file:
        file.write("f\n")
    path.replace(tmp_path / "x.log.1")
    path.write_text("two\n", encoding="utf-8")
    assert tail.read() == ["half", "two"]
