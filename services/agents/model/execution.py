"""Executions and their runs as values: how they stand, what is told of them, and what is heard of their tasks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.agents.model.order import Order


class RunStatus(StrEnum):
    """Where a run stands. The last four are ends."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Nothing happens to it any more."""
        return self not in {RunStatus.PENDING, RunStatus.RUNNING}


class ExecutionStatus(StrEnum):
    """Where an execution stands; it ends with its last run."""

    STARTED = "started"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an agent said. `tokens` of question and answer together."""

    output: str
    model: str = ""
    tokens: int = 0

    def as_document(self) -> dict[str, Any]:
        """The result document of its task."""
        return {"output": self.output, "model": self.model, "tokens": self.tokens}


def answer_of(document: bytes) -> Answer:
    """What a task's result document says; other shapes are shown as they are, because a task may come from anywhere."""
    try:
        said = json.loads(document) if document else {}
    except ValueError:
        said = document.decode(errors="replace")
    if not isinstance(said, Mapping):
        return Answer(output=str(said))
    tokens = said.get("tokens", 0)
    return Answer(
        output=str(said.get("output", "")),
        model=str(said.get("model", "")),
        tokens=tokens if isinstance(tokens, int) and tokens >= 0 else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One agent's part in an execution.

    Attributes:
        position: in the order of the execution, from 0.
        deadline_at: set when its turn has come; its task ends by then.
        task_id: empty until the tasks service has accepted it.
    """

    id: str
    execution_id: str
    position: int
    agent_id: str
    agent_name: str
    status: RunStatus
    created_at: datetime
    deadline_at: datetime | None
    task_id: str
    started_at: datetime | None
    finished_at: datetime | None
    output: str
    error: str
    model: str
    tokens: int

    @property
    def is_due(self) -> bool:
        """Its turn has come, and the tasks service has not accepted it as far as is known."""
        return self.status is RunStatus.PENDING and self.deadline_at is not None and not self.task_id

    @property
    def duration_ms(self) -> int:
        """From its start to its end; 0 for a run that never started or has not ended."""
        if self.started_at is None or self.finished_at is None:
            return 0
        return max(0, round((self.finished_at - self.started_at).total_seconds() * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An execution with its runs, in order.

    Attributes:
        sequence: number of the last event told of it, gap-free from 1.
        cancelled_at: when somebody asked for its end.
        traceparent: of the request that started it; its events and tasks belong to that trace.
    """

    id: str
    order: Order
    status: ExecutionStatus
    started_at: datetime
    finished_at: datetime | None
    cancelled_at: datetime | None
    estimated_seconds: int
    sequence: int
    traceparent: str
    runs: tuple[Run, ...]

    @property
    def due(self) -> tuple[Run, ...]:
        """Runs to submit."""
        return tuple(run for run in self.runs if run.is_due)

    @property
    def successful(self) -> int:
        """How many of its runs have succeeded."""
        return sum(run.status is RunStatus.SUCCESS for run in self.runs)


class EventType(StrEnum):
    """What is told of an execution."""

    STARTED = "execution.started"
    RUN_FINISHED = "run.finished"
    FINISHED = "execution.finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something to tell about an execution as it stood right after it. `run` is set on RUN_FINISHED."""

    type: EventType
    sequence: int
    at: datetime
    execution: Execution
    run: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one transaction writes and announces. `finished` are the runs that ended in it."""

    execution: Execution
    finished: tuple[Run, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What became of a run's task, as the bus or the tasks service told it.

    Attributes:
        status: PENDING when it has not started.
        at: when that was.
        started_at: when the attempt started, where that is known.
        is_whole: there is no more to know; news from the bus leaves out when the task had started.
        answer: on success.
        error: for the user, on every other end.
    """

    execution_id: str
    run_id: str
    task_id: str
    owner_id: str
    status: RunStatus
    at: datetime
    started_at: datetime | None = None
    answer: Answer | None = None
    error: str = ""
    is_whole: bool = False


# What the tasks service calls the end of a task whose time was over.
_TIMEOUT_CODES = frozenset({"TIMEOUT", "DEADLINE_EXCEEDED"})


def failed_as(code: str) -> RunStatus:
    """How a run ended whose task failed for good with that code."""
    return RunStatus.TIMEOUT if code in _TIMEOUT_CODES else RunStatus.FAILED
