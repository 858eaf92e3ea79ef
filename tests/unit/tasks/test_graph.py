"""Submissions that run after each other: names, ids and circles."""

import pytest

from chassis.errors import Invalid
from services.tasks.model.graph import resolve
from tests.unit.tasks.test_checks import draft

IDS = ["task_a", "task_b", "task_c"]


def test_names_become_the_ids_of_their_requests() -> None:
    """Other ids stay as they are, and a request may come before the one it runs after."""
    drafts = [draft(name="a", run_after=("#b", "task_old")), draft(name="b"), draft(run_after=("#a",))]
    assert [one.run_after for one in resolve(drafts, IDS)] == [("task_b", "task_old"), (), ("task_a",)]


@pytest.mark.parametrize(
    ("names", "after", "code", "index"),
    [
        (("a", "b", "c"), (("#c",), ("#a",), ("#b",)), "DEPENDENCY_CYCLE", "0"),
        (("", "b", ""), ((), ("#b",), ()), "DEPENDENCY_CYCLE", "1"),
        (("", "b", "c"), ((), ("#c",), ("#b",)), "DEPENDENCY_CYCLE", "1"),
        (("a", "", ""), ((), ("#b",), ()), "UNKNOWN_PREREQUISITE", "1"),
        (("a", "", "a"), ((), (), ()), "VALIDATION_ERROR", "2"),
        (("a b", "", ""), ((), (), ()), "VALIDATION_ERROR", "0"),
        (("x" * 51, "", ""), ((), (), ()), "VALIDATION_ERROR", "0"),
    ],
)
def test_circles_and_wrong_names_are_refused(
    names: tuple[str, ...], after: tuple[tuple[str, ...], ...], code: str, index: str
) -> None:
    """With the number of a request that is at fault."""
    drafts = [draft(name=name, run_after=run_after) for name, run_after in zip(names, after, strict=True)]
    with pytest.raises(Invalid) as caught:
        resolve(drafts, IDS)
    assert (caught.value.code, caught.value.details["index"]) == (code, index)
