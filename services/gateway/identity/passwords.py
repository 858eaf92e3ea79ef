"""Password hashes: argon2id on threads of their own, so that the event loop never waits for one. Knows no user."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from chassis.errors import Unavailable

T = TypeVar("T")

# OWASP's recommendation for argon2id: 19 MiB, two passes, one lane. About 20 ms on one core.
_PASSES, _MEMORY_KIB, _LANES = 2, 19 * 1024, 1
_THREADS = 2
# More waiting than this would be answered after their callers gave up.
_MOST_WAITING = 100


class Argon2Passwords:
    """Hashes and compares; more than a hundred at a time are Unavailable."""

    def __init__(self, executor: Executor) -> None:
        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        self._executor = executor
        self._waiting = 0
        # What unknown users are compared with, so that they take as long as known ones.
        self._nobody = self._hasher.hash("nobody's password")

    async def hash(self, password: str) -> str:
        with self._queued():
            return await self._run(partial(self._hasher.hash, _bytes(password)))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        with self._queued():
            matched = await self._run(partial(self._matches, password_hash or self._nobody, password))
        return matched and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        return self._hasher.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, _bytes(password))
        except VerificationError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    @contextmanager
    def _queued(self) -> Iterator[None]:
        if self._waiting >= _MOST_WAITING:
            raise Unavailable(private="too many passwords to hash", retry_after_seconds=1.0)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


@contextmanager
def open_passwords() -> Iterator[Argon2Passwords]:
    """Hashing, with its threads for as long as it is open."""
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="argon2") as executor:
        yield Argon2Passwords(executor)


def _bytes(password: str) -> bytes:
    # A form may smuggle in a lone surrogate; it matches nobody's password, and must not be an error of ours.
    return password.encode("utf-8", "surrogatepass")
