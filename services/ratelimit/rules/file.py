"""The rules file of this process: read at start, read again when it changes; a wrong text changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from pathlib import Path

import watchfiles

from chassis.errors import Invalid
from chassis.logging import get_logger
from services.ratelimit.model.book import RuleBook
from services.ratelimit.rules.loader import LARGEST_BYTES, load_book, too_large
from services.ratelimit.rules.nodes import bad_rules

log = get_logger(__name__)

# How long changes may go on before they are looked at, and how often the file is looked at without any notice (a file
# system that gives none).
_DEBOUNCE_MS = 100
_STEP_MS = 20
_LOOK_EVERY_MS = 250


def read_book(path: Path | None) -> RuleBook:
    """The rules of a file, of the built-in one when None. Raises Invalid with ``file:line: reason``."""
    if path is None:
        built_in = resources.files("services.ratelimit.rules").joinpath("default.yaml")
        return load_book("default.yaml", built_in.read_text(encoding="utf-8"))
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise too_large(str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise bad_rules(str(path), 1, f"the rules file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise bad_rules(str(path), line, "this is not YAML: not UTF-8") from error
    return load_book(str(path), text)


class RuleFile:
    """The book of the file, and what follows the file."""

    def __init__(self, path: Path | None) -> None:
        """Raises Invalid when the file is wrong: a process does not start with rules it cannot read."""
        self._path = path
        self._seen = self._look()
        self.book = read_book(path)
        # What was wrong with the newest text; empty while the file's text is the book's.
        self.problem = ""

    @property
    def fingerprint(self) -> int:
        """Tells one text of the file from another; 0 for the built-in one, which changes with the program alone."""
        return self.book.generation if self._path is not None else 0

    def _look(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another."""
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Follows the file for ever; a new text is the book's well within a second, and `changed` is told."""
        if self._path is None:
            return
        async for _ in glances(self._path.parent):
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                # Parsing takes milliseconds that decisions need not wait for.
                if await asyncio.to_thread(self.reload):
                    await changed()

    def reload(self) -> bool:
        """Reads the file now; whether its text is another one. A wrong text is reported and changes nothing."""
        try:
            book = read_book(self._path)
        except Invalid as error:
            self.problem = error.message
            log.warning("The rules file is wrong; the rules stay as they were", reason=error.message)
            return False
        self.problem = ""
        changed = book.generation != self.book.generation
        self.book = book
        return changed


def glances(folder: Path) -> AsyncIterator[object]:
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
