"""Which rules are in force: those of the file, or those that were put in their place for all instances.

Knows nothing of Redis; the board does. The head of `default.yaml` says who wins.
"""

import asyncio
from collections.abc import AsyncGenerator

from chassis.clock import Clock
from chassis.errors import Conflict, Exhausted, Invalid, Unavailable
from chassis.logging import get_logger
from services.ratelimit.model.book import RuleBook
from services.ratelimit.ports import Board, Notice
from services.ratelimit.rules.file import RuleFile
from services.ratelimit.rules.loader import load_book

log = get_logger(__name__)

# What texts that came over the API are called in errors.
NAME = "rules"
_WAIT_SECONDS = 0.5
_RETRY_SECONDS = 0.25
_TRIES = 3
_MOST_WATCHERS = 1000


class RulesInForce:
    """The book in force in this instance, and its part in keeping all instances of one mind.

    Every notice on the board follows the one before it, and the newest is what holds. One with a text puts it in force
    everywhere; one without says that the file has changed since. A board may be lost: then whoever knows the newest
    notice puts it back.
    """

    def __init__(self, file: RuleFile, board: Board, clock: Clock) -> None:
        self._file = file
        self._board = board
        self._clock = clock
        self._newest = Notice(revision=0, source="", file=0)
        # The file has changed since the newest notice, maybe before this process began, and the board does not say so.
        self._file_is_newer = True
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Event()
        self._watchers = 0
        self._closed = False
        self.book: RuleBook = file.book
        self.origin = "file"

    @property
    def problem(self) -> str:
        """What is wrong with the newest text of the file; empty while nothing is."""
        return self._file.problem

    # -- following -----------------------------------------------------------------------------------------------

    async def start(self, timeout_seconds: float) -> None:
        """Asks the board before the first decision, so that a restart does not bring the file's rules back for a
        moment. A board that is away is heard later.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._catch_up()
                await self._announce_file()
        except (Unavailable, TimeoutError):
            log.warning("Whether rules were put by the API is not known yet: Redis is away")

    async def follow(self) -> None:
        """Follows the board until `close`."""
        while not self._closed:
            try:
                # Waits outside the lock, so that nobody who puts rules waits for it.
                await self._board.wait(after=self._newest.revision, timeout_seconds=_WAIT_SECONDS)
                async with self._one_at_a_time:
                    await self._catch_up()
                    await self._announce_file()
            except Unavailable as error:
                log.debug("The board of rules is away", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def follow_file(self) -> None:
        """Follows the file for ever."""
        await self._file.watch(self.file_changed)

    def _is_older(self, notice: Notice) -> bool:
        """Whether the notice's rules were put over another text than the file's: the file has changed since."""
        text = self._file.fingerprint
        return bool(notice.source and text and notice.file != text)

    async def file_changed(self) -> None:
        """The file has another text than before: it is in force here at once if it is the newest."""
        self._file_is_newer = self._is_older(self._newest)
        if self._file_is_newer or not self._newest.source:
            self._enforce(self._file.book, "file")
        try:
            async with self._one_at_a_time:
                await self._announce_file()
        except Unavailable:
            log.warning("Other instances are told of the changed rules file when Redis is back")

    async def _announce_file(self) -> None:
        for _ in range(_TRIES):
            if not (self._file_is_newer and self._newest.source):
                self._file_is_newer = False
                return
            if not await self._post(""):
                await self._catch_up()

    async def _catch_up(self) -> None:
        """Takes over the newest notice, or puts it back where it was lost."""
        found = await self._board.read()
        if found.revision < self._newest.revision:
            log.warning("The board of rules had lost its notice")
            await self._board.post(self._newest, after=found.revision)
        elif found.revision > self._newest.revision:
            await self._take(found)

    async def _take(self, notice: Notice) -> None:
        book = await self._read(notice)
        # From here on without a pause: the file may change at any other moment.
        self._newest = notice
        if self._file_is_newer and self._is_older(notice):
            # It was put while this instance could not say that its file had changed. The file is told of last.
            return
        self._file_is_newer = False
        if not notice.source:
            self._enforce(self._file.book, "file")
        elif book is not None:
            self._enforce(book, "api")

    async def _read(self, notice: Notice) -> RuleBook | None:
        try:
            return await asyncio.to_thread(load_book, NAME, notice.source) if notice.source else None
        except Invalid as error:
            # An instance of another version has accepted them; this one goes on with the rules it has.
            log.error("Rules that another instance has put are not understood here", reason=error.message)  # noqa: TRY400 - the sentence says it all
            return None

    def _enforce(self, book: RuleBook, origin: str) -> None:
        same = book.generation == self.book.generation
        self.book, self.origin = book, origin
        if not same:
            log.info("New rules are in force", generation=book.generation, origin=origin)
            self._tell()

    # -- putting -------------------------------------------------------------------------------------------------

    async def put(self, source: str, expected_generation: int = 0) -> int:
        """Puts a text in force in all instances and returns its generation.

        Raises Invalid for a wrong text, Conflict (``RULES_CHANGED``) when other rules than the expected are in force,
        and Unavailable when the board is away; nothing has changed then.
        """
        book = await asyncio.to_thread(load_book, NAME, source)
        async with self._one_at_a_time:
            for _ in range(_TRIES):
                # What hangs is noticed here, before anything is sent that may take effect later.
                await self._catch_up()
                if expected_generation not in {0, self.book.generation}:
                    raise Conflict("The rules have changed since they were read", code="RULES_CHANGED")
                if await self._post(source):
                    if not self._file_is_newer:
                        self._enforce(book, "api")
                    return book.generation
        raise Conflict("Others are changing the rules at the same time", code="RULES_CHANGED")

    async def _post(self, source: str) -> bool:
        # Later than whatever a board had that nobody remembers.
        revision = max(self._newest.revision + 1, int(self._clock.now().timestamp() * 1000))
        notice = Notice(revision=revision, source=source, file=self._file.fingerprint)
        if not await self._board.post(notice, after=self._newest.revision):
            return False
        self._newest = notice
        # The file may have changed while the board was told.
        self._file_is_newer = self._is_older(notice)
        return True

    # -- watching ------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def generations(self) -> AsyncGenerator[int]:
        """The generation in force, now and whenever it changes, until `close`. Raises Exhausted: too many watchers."""
        if self._watchers >= _MOST_WATCHERS:
            raise Exhausted(f"There are {_MOST_WATCHERS} watchers of the rules already", code="TOO_MANY_WATCHERS")
        self._watchers += 1
        told = -1
        try:
            while not self._closed:
                changed = self._changed
                if self.book.generation != told:
                    told = self.book.generation
                    yield told
                else:
                    await changed.wait()
        finally:
            self._watchers -= 1

    async def close(self) -> None:
        """Ends all watching and following."""
        self._closed = True
        self._tell()
