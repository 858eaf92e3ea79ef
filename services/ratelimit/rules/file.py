"""The rules file of this process: read at start, read again when it changes, kept when the new text is wrong."""

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import watchfiles

from chassis.errors import Invalid
from chassis.logging import get_logger
from services.ratelimit.model.limits import RuleBook
from services.ratelimit.rules.loader import load_book

log = get_logger(__name__)

_LARGEST_BYTES = 1024 * 1024
# How long changes may go on before they are looked at, and how often the file is looked at without any notice (a file
# system that gives none).
_DEBOUNCE_MS = 100
_STEP_MS = 20
_LOOK_EVERY_MS = 500


def read_book(path: Path | None) -> RuleBook:
    """The rules of a file, of the built-in one when None. Raises Invalid with ``file:line: reason``."""
    if path is None:
        built_in = resources.files("services.ratelimit.rules").joinpath("default.yaml")
        return load_book("default.yaml", built_in.read_text(encoding="utf-8"))
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise Invalid(f"{path}:1: the file is larger than {_LARGEST_BYTES} bytes", code="BAD_RULES")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path}: the rules file cannot be read: {error.strerror}", code="BAD_RULES") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Invalid(f"{path}:{line}: this is not YAML: not UTF-8", code="BAD_RULES") from error
    return load_book(str(path), text)


class RuleFile:
    """The book in force, and what follows the file."""

    def __init__(self, path: Path | None) -> None:
        """Raises Invalid when the file is wrong: a process does not start with rules it cannot read."""
        self._path = path
        self.book = read_book(path)
        self._seen = self._look()
        # What was wrong with the newest text; empty while the file's text is in force.
        self.problem = ""

    def _look(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another."""
        if self._path is None or not self._path.exists():
            return None
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    async def watch(self) -> None:
        """Follows the file for ever; a new text is in force well within a second."""
        if self._path is None:
            return
        async for _ in _glances(self._path.parent):
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                # Parsing takes milliseconds that decisions need not wait for.
                await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Reads the file now. A wrong text is reported and changes nothing."""
        try:
            book = read_book(self._path)
        except Invalid as error:
            self.problem = error.message
            log.warning("The rules file is wrong; the rules stay as they were", reason=error.message)
            return
        self.problem = ""
        if book.generation != self.book.generation:
            self.book = book
            log.info("New rules are in force", generation=book.generation)


def _glances(folder: Path) -> AsyncIterator[object]:
    """Whenever something in the folder changes, and every half second at least.

    The folder and not the file, because a file is often replaced and not written to.
    """
    return watchfiles.awatch(
        folder,
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        rust_timeout=_LOOK_EVERY_MS,
        yield_on_timeout=True,
        recursive=False,
    )
