"""When the rate is back after a restart."""

import pytest

from bench.tasks_recovery import back_from


@pytest.mark.parametrize(
    ("ended", "second"),
    [
        ([10] * 5, 1),
        ([0, 0, 10, 10, 10, 10, 10, 1], 3),
        # A single second, or four, are not yet a rate.
        ([0, 0, 30, 1, 1, 1, 1, 1], None),
        ([30, 1, 1, 1, 1, 9, 9, 9, 9, 9], 6),
        ([0, 10, 10, 10, 10], None),
        ([10] * 4, None),
    ],
)
def test_it_is_back_when_five_seconds_in_a_row_have_it(ended: list[float], second: int | None) -> None:
    assert back_from(ended, 9) == second
