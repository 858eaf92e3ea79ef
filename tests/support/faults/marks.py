"""What handlers did, noted in a file outside the mesh, so that it can be counted afterwards."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

# `effect` is what an outside system keyed by the task's id would have done; `execution` is every start of a handler.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS execution (task_id TEXT, attempt INTEGER, worker TEXT, at REAL);
CREATE TABLE IF NOT EXISTS effect (task_id TEXT PRIMARY KEY, attempt INTEGER);
CREATE TABLE IF NOT EXISTS complaint (words TEXT);
"""


class Marks:
    """The file of marks. A mark that was made stays when the process is killed: the operating system has it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lay_out(self) -> None:
        """Makes the tables."""
        with closing(self._open()) as marks:
            marks.executescript("PRAGMA journal_mode=WAL;" + _SCHEMA)

    def begun(self, task_id: str, attempt: int, worker: str) -> None:
        """A handler has started."""
        with closing(self._open()) as marks:
            marks.execute("INSERT INTO execution VALUES (?, ?, ?, ?)", (task_id, attempt, worker, time.time()))

    def done(self, task_id: str, attempt: int) -> None:
        """It has had its effect; a second time it is none."""
        with closing(self._open()) as marks:
            marks.execute("INSERT OR IGNORE INTO effect VALUES (?, ?)", (task_id, attempt))

    def complain(self, words: str) -> None:
        """A worker was treated as none should be."""
        with closing(self._open()) as marks:
            marks.execute("INSERT INTO complaint VALUES (?)", (words,))

    def complaints(self) -> list[str]:
        """What workers complained of."""
        with closing(self._open()) as marks:
            return [words for (words,) in marks.execute("SELECT words FROM complaint")]

    def executions(self) -> list[tuple[str, int]]:
        """Every start, as task and attempt."""
        with closing(self._open()) as marks:
            return marks.execute("SELECT task_id, attempt FROM execution").fetchall()

    def starts(self) -> list[tuple[str, str, float]]:
        """Every start in order: task, worker, and when, in seconds since 1970."""
        with closing(self._open()) as marks:
            return marks.execute("SELECT task_id, worker, at FROM execution ORDER BY at").fetchall()

    def effects(self) -> dict[str, int]:
        """Who had an effect, and in which attempt."""
        with closing(self._open()) as marks:
            return dict(marks.execute("SELECT task_id, attempt FROM effect").fetchall())

    def _open(self) -> sqlite3.Connection:
        marks = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        marks.execute("PRAGMA synchronous=OFF")
        return marks
