"""Who wins, the file or the API, in all instances, over restarts and losses."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from chassis.errors import Conflict, Exhausted, Invalid, Unavailable
from tests.unit.ratelimit.board import NOTHING, Instance, MemoryBoard, following, rules, save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(rules(1))
    return path


async def test_rules_that_are_put_are_in_force_everywhere(path: Path) -> None:
    """In the instance that was asked at once, in the others soon, and in those that start later."""
    board = MemoryBoard()
    async with following(board, path, path) as (first, second):
        assert (first.limit, first.rules.origin) == (1, "file")
        generation = await first.rules.put(rules(2))
        assert (first.limit, first.rules.origin, first.rules.book.generation) == (2, "api", generation)
        await second.until(2)
        assert (second.rules.origin, second.rules.book.source) == ("api", rules(2))
        async with following(board, path) as (third,):
            assert (third.limit, third.rules.origin) == (2, "api")


async def test_a_later_change_of_the_file_wins(path: Path) -> None:
    """In all instances, also where the file is the old one still; and what is put after that wins again."""
    board = MemoryBoard()
    other = path.with_name("other.yaml")
    other.write_text(rules(1))
    async with following(board, path, other) as (first, second):
        await second.rules.put(rules(2))
        await first.until(2)
        await first.write(path, rules(3))
        assert (first.limit, first.rules.origin) == (3, "file")
        await second.until(1)
        await second.write(other, rules(3))
        assert (second.limit, second.rules.origin) == (3, "file")
        await second.rules.put(rules(4))
        await first.until(4)


async def test_a_file_that_says_the_same_ends_nothing(path: Path) -> None:
    """Written again, or wrong for a while: what was put stays."""
    async with following(MemoryBoard(), path) as (one,):
        await one.rules.put(rules(2))
        for text in (rules(1), "version: 7", rules(1)):
            await one.write(path, text)
            assert one.limit == 2
            assert bool(one.rules.problem) == (text == "version: 7")


async def test_a_file_that_reaches_another_instance_later_ends_nothing(path: Path) -> None:
    """What was put over the new text is newer than it, however late an instance sees the text."""
    board = MemoryBoard()
    other = path.with_name("other.yaml")
    other.write_text(rules(1))
    async with following(board, path, other) as (first, second):
        await first.write(path, rules(2))
        await first.rules.put(rules(3))
        await second.until(3)
        await second.write(other, rules(2))
        assert (first.limit, second.limit) == (3, 3)


async def test_a_file_that_changed_while_the_process_was_down_wins(path: Path) -> None:
    """Everywhere; the built-in file changes with the program alone, and ends nothing."""
    board = MemoryBoard()
    async with following(board, path, None) as (first, built_in):
        await first.rules.put(rules(2))
        await built_in.until(2)
        save(path, rules(3))
        async with following(board, path, None) as (again, built_in_again):
            assert (again.limit, built_in_again.limit) == (3, 0)
            await first.until(1)
            await built_in.until(0)


async def test_the_built_in_file_ends_nothing() -> None:
    """A program of another version starts, and what was put stays."""
    board = MemoryBoard()
    async with following(board, None) as (first,):
        await first.rules.put(rules(2))
        async with following(board, None) as (second,):
            assert (second.limit, second.rules.origin) == (2, "api")


async def test_a_board_that_was_lost_is_put_back(path: Path) -> None:
    """By whoever knows, with the same revision; what is put meanwhile by somebody who does not know is newer."""
    board = MemoryBoard()
    async with following(board, path, path) as (first, second):
        await first.rules.put(rules(2))
        await second.until(2)
        known, board.notice = board.notice, NOTHING
        async with asyncio.timeout(20):
            while board.notice != known:
                await asyncio.sleep(0.001)
        board.notice = NOTHING
        await second.rules.put(rules(3))
        await first.until(3)
        assert board.notice.revision > known.revision


async def test_without_the_board_nothing_is_put(path: Path) -> None:
    """And a start is none the worse for it: the rules are heard later."""
    board = MemoryBoard()
    async with following(board, path) as (first,):
        await first.rules.put(rules(2))
        board.away = True
        with pytest.raises(Unavailable):
            await first.rules.put(rules(3))
        assert (first.limit, board.notice.source) == (2, rules(2))
        async with following(board, path) as (second,):
            assert second.limit == 1
            board.away = False
            await second.until(2)


async def test_a_file_that_changed_without_the_board_wins_when_it_is_back(path: Path) -> None:
    """Here it is in force at once."""
    board = MemoryBoard()
    async with following(board, path, None) as (first, second):
        await first.rules.put(rules(2))
        await second.until(2)
        board.away = True
        await first.write(path, rules(3))
        assert first.limit == 3
        board.away = False
        await second.until(0)
        assert first.limit == 3


async def test_only_the_expected_rules_are_replaced(path: Path) -> None:
    """Those that somebody else has put meanwhile, anywhere, are not."""
    board = MemoryBoard()
    first, second = Instance(board, path), Instance(board, path)
    known = second.rules.book.generation
    mine = await first.rules.put(rules(2), known)
    with pytest.raises(Conflict) as refused:
        await second.rules.put(rules(3), known)
    assert refused.value.code == "RULES_CHANGED"
    assert (second.limit, board.notice.source) == (2, rules(2))
    await second.rules.put(rules(3), mine)


async def test_puts_at_the_same_time_are_one_after_the_other(path: Path) -> None:
    """Of those that expect the same rules one succeeds, and all instances agree."""
    board = MemoryBoard()
    async with following(board, path, path, path) as instances:
        known = instances[0].rules.book.generation
        puts = [one.rules.put(rules(2 + index), known) for index, one in enumerate(instances)]
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert sum(isinstance(one, Conflict) for one in results) == 2
        won = next(index for index, one in enumerate(results) if isinstance(one, int))
        for one in instances:
            await one.until(2 + won)


async def test_a_wrong_text_is_refused_with_its_line(path: Path) -> None:
    """Nothing is told to anybody."""
    board = MemoryBoard()
    one = Instance(board, path)
    with pytest.raises(Invalid, match=r"rules:4: limit must be between 1 and 1000000000000, not 0"):
        await one.rules.put(rules(0))
    assert board.notice == NOTHING


async def test_rules_that_are_not_understood_here_change_nothing(path: Path) -> None:
    """An instance of another version may accept what this one does not know."""
    board = MemoryBoard()
    one = Instance(board, path)
    board.notice = NOTHING._replace(revision=5, source="version: 9", file=one.file.fingerprint)
    await one.rules.start(1.0)
    assert (one.limit, one.rules.origin) == (1, "file")
    await one.rules.put(rules(2))
    assert (one.limit, one.rules.origin) == (2, "api")


async def test_watchers_hear_the_generation_at_once_and_at_each_change(path: Path) -> None:
    """The last one alone when several came in between; and the end."""
    one = Instance(MemoryBoard(), path)
    async with aclosing(one.rules.generations()) as watching:
        assert await anext(watching) == one.rules.book.generation
        await one.rules.put(rules(2))
        last = await one.rules.put(rules(3))
        assert await anext(watching) == last
        waiting = asyncio.ensure_future(anext(watching, None))
        await asyncio.sleep(0)
        await one.rules.close()
        assert await waiting is None


async def test_watchers_are_bounded(path: Path) -> None:
    """A thousand; one that leaves makes room."""
    one = Instance(MemoryBoard(), path)
    watchers = [one.rules.generations() for _ in range(1001)]
    for watcher in watchers[:1000]:
        await anext(watcher)
    with pytest.raises(Exhausted):
        await anext(watchers[1000])
    await watchers[0].aclose()
    async with aclosing(one.rules.generations()) as another:
        assert await anext(another) == one.rules.book.generation
    for watcher in watchers:
        await watcher.aclose()
