"""The runtime folder of an envoyproxy/ratelimit configuration: read at start, and again when it changes.

A wrong configuration changes nothing; before there was a right one, there is none.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chassis.errors import Invalid
from chassis.logging import get_logger
from services.ratelimit.model.descriptors import DescriptorBook
from services.ratelimit.rules.envoy import load_descriptors
from services.ratelimit.rules.file import glances
from services.ratelimit.rules.nodes import bad_rules

log = get_logger(__name__)

_LARGEST_BYTES = 16 * 1024 * 1024

Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the files are: in ``root/subdirectory/application``, folders below it included.

    Args:
        watch_root: whether `root` is a link that is swapped for a new configuration; if not, the files are followed.
        ignore_dot_files: whether files and folders are passed over whose names begin with a dot.
    """

    root: Path
    subdirectory: str
    application: str = "config"
    watch_root: bool = True
    ignore_dot_files: bool = False

    @property
    def folder(self) -> Path:
        """The folder with the files."""
        return self.root / self.subdirectory / self.application

    @property
    def watched(self) -> Path:
        """The folder whose changes tell of a new configuration."""
        if self.watch_root:
            # A link is replaced in the folder that it is in.
            return self.root.absolute().parent
        # The first that is there: files may come later, and folders with them.
        return next(place for place in (self.folder, *self.folder.absolute().parents) if place.is_dir())

    def files(self) -> list[Path]:
        """All files, in the order of their names."""
        found = []
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not self._is_ignored(name))
            found += [Path(folder, name) for name in sorted(names) if not self._is_ignored(name)]
        return found

    def _is_ignored(self, name: str) -> bool:
        return self.ignore_dot_files and name.startswith(".")

    def signature(self) -> Signature:
        """Tells one configuration from the next."""
        if self.watch_root:
            return (_look(self.root), os.path.realpath(self.root))
        return tuple((str(path), _look(path)) for path in self.files())


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if path.is_file() else (found.st_ino, found.st_dev, 0)


class DescriptorFolder:
    """The descriptors in force, and what follows the folder."""

    def __init__(self, place: Place, *, merge_domains: bool, counts_denied: bool) -> None:
        """Raises Invalid when there is no such folder."""
        if not place.root.is_dir():
            raise Invalid(f"RUNTIME_ROOT: {place.root} is no folder", code="BAD_RULES")
        self._book: DescriptorBook | None = None
        # What was wrong with the newest configuration; empty while it is in force.
        self.problem = ""
        self._place = place
        self._merge_domains = merge_domains
        self._counts_denied = counts_denied
        self._seen = place.signature()
        self.load()

    @property
    def book(self) -> DescriptorBook | None:
        """The configuration in force; None as long as none could be loaded."""
        return self._book

    def load(self) -> None:
        """Reads the folder now. A wrong configuration is reported and changes nothing."""
        try:
            book = load_descriptors(
                list(self._texts()), merge_domains=self._merge_domains, counts_denied=self._counts_denied
            )
        except Invalid as error:
            self.problem = error.message
            log.error("The descriptor configuration is wrong; nothing changes", reason=error.message)  # noqa: TRY400 - the sentence says it
            return
        self._book, self.problem = book, ""
        log.info(
            "A new descriptor configuration is in force", domains=len(book.domains), folder=str(self._place.folder)
        )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for path in self._place.files():
            name = str(path.relative_to(self._place.root))
            try:
                if path.stat().st_size > _LARGEST_BYTES:
                    raise bad_rules(name, 1, f"the file is larger than {_LARGEST_BYTES} bytes")
                yield name, path.read_text(encoding="utf-8")
            except OSError as error:
                raise bad_rules(name, 1, f"the file cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                line = error.object[: error.start].count(b"\n") + 1
                raise bad_rules(name, line, "this is not YAML: not UTF-8") from error

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Follows the folder for ever; what changes is in force well within a second, and `changed` is told."""
        async for _ in glances(self._place.watched):
            seen = await asyncio.to_thread(self._place.signature)
            if seen != self._seen:
                self._seen = seen
                # Parsing takes milliseconds that decisions need not wait for.
                await asyncio.to_thread(self.load)
                await changed()
