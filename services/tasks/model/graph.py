"""Tasks that run after each other: names become ids, circles are refused, and how those stand that one waits for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from chassis.errors import Invalid
from services.tasks.model.task import Draft

_NAME = re.compile(r"[A-Za-z0-9_\-]{1,50}\Z")
_MARK = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the tasks stand that a task runs after: how many it names, and how many ended well or otherwise."""

    join_any: bool
    named: int
    succeeded: int
    failed: int


def resolve(drafts: Sequence[Draft], task_ids: Sequence[str]) -> list[Draft]:
    """The drafts with ids in the place of "#name". Raises Invalid, with the number of the draft as `index`."""
    ids: dict[str, str] = {}
    for index, draft in enumerate(drafts):
        if draft.name and not _NAME.match(draft.name):
            raise _bad(index, "name", "1 to 50 letters, digits, _ and -")
        if draft.name and ids.setdefault(draft.name, task_ids[index]) != task_ids[index]:
            raise _bad(index, "name", "Another request has it")
    resolved = [
        replace(draft, run_after=tuple(_id_of(index, named, ids) for named in draft.run_after))
        for index, draft in enumerate(drafts)
    ]
    _refuse_circles({task_id: draft.run_after for task_id, draft in zip(task_ids, resolved, strict=True)}, task_ids)
    return resolved


def _id_of(index: int, named: str, ids: dict[str, str]) -> str:
    if not named.startswith(_MARK):
        return named
    task_id = ids.get(named.removeprefix(_MARK))
    if task_id is None:
        raise _bad(index, "run_after", f"No request has the name {named[:50]!r}", code="UNKNOWN_PREREQUISITE")
    return task_id


def _refuse_circles(after: dict[str, tuple[str, ...]], task_ids: Sequence[str]) -> None:
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        index = min(task_ids.index(task_id) for task_id in circle)
        raise _bad(
            index, "run_after", "Tasks that run after each other in a circle", code="DEPENDENCY_CYCLE"
        ) from error


def _bad(index: int, field: str, message: str, code: str = "") -> Invalid:
    return Invalid(f"{field}: {message}", code=code, details={"field": field, "index": str(index)})
