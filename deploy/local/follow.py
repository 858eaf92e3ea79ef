"""Shows the processes' logs together, the last lines first and then what is added."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from deploy.local.environment import Environment
from deploy.local.logs import BoundedLog, render
from deploy.local.problems import Problem
from deploy.local.state import StateDir

_FIRST_LINES = 10
_LOOK_EVERY_SECONDS = 0.2


class Tail:
    """The growing end of one log file; a file that was replaced is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._partial = ""
        if path.exists():
            self._open().seek(0, 2)

    def _open(self) -> TextIO:
        self._file = self._path.open(encoding="utf-8", errors="replace")
        return self._file

    def read(self) -> list[str]:
        """The whole lines added since the last call."""
        text = self._partial
        if self._file is not None:
            text += self._file.read()
        if self._replaced():
            if self._file is not None:
                self._file.close()
            text += self._open().read()
        *lines, self._partial = text.split("\n")
        return lines

    def _replaced(self) -> bool:
        if not self._path.exists():
            return False
        return self._file is None or self._path.stat().st_ino != _inode(self._file)


def _inode(file: TextIO) -> int:
    return Path(f"/proc/self/fd/{file.fileno()}").stat().st_ino


def follow(environment: Environment, names: Sequence[str], *, colour: bool) -> None:
    """Prints the logs of the named processes, or of all, until interrupted. Raises Problem for an unknown name."""
    logs = StateDir(environment.state_path).logs
    known = sorted(path.stem for path in logs.glob("*.log"))
    if unknown := [name for name in names if name not in known]:
        raise Problem(f"No log of {', '.join(unknown)}. There are: {', '.join(known) or 'none yet'}.")
    tails = {name: Tail(logs / f"{name}.log") for name in names or known}
    for name in tails:
        _print(name, BoundedLog(logs / f"{name}.log").tail(_FIRST_LINES), colour=colour)
    while True:
        for name, tail in tails.items():
            _print(name, tail.read(), colour=colour)
        time.sleep(_LOOK_EVERY_SECONDS)


def _print(name: str, lines: Sequence[str], *, colour: bool) -> None:
    for line in lines:
        print(render(name, line, colour=colour), flush=True)
