from collections.abc import Iterator

import pytest

from chassis.errors import Unavailable
from services.gateway.identity.passwords import Argon2Passwords, open_passwords


@pytest.fixture
def passwords() -> Iterator[Argon2Passwords]:
    with open_passwords() as opened:
        yield opened


async def test_the_right_password_matches(passwords: Argon2Passwords):
    """A hash is argon2id, salted, and matches its password alone."""
    one, two = await passwords.hash("correct horse"), await passwords.hash("correct horse")
    assert one.startswith("$argon2id$")
    assert one != two
    assert await passwords.matches(one, "correct horse")
    assert not await passwords.matches(one, "wrong horse")
    assert not passwords.is_outdated(one)


async def test_nobody_matches_nothing(passwords: Argon2Passwords):
    """An unknown user is compared too, and never matches; neither does a lone surrogate."""
    assert not await passwords.matches(None, "nobody's password")
    assert not await passwords.matches(await passwords.hash("correct horse"), "\ud800")


async def test_old_parameters_are_noticed(passwords: Argon2Passwords):
    """A hash with weaker parameters is to be renewed."""
    weak = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$ZuUhtYLMSBgJGeSO5vLZ2lqlnGhNqMPSVbIrYCDyOZg"
    assert passwords.is_outdated(weak)


async def test_a_flood_is_refused(passwords: Argon2Passwords):
    """More than a hundred at once are told to come back."""
    passwords._waiting = 100
    with pytest.raises(Unavailable) as refused:
        await passwords.hash("one too many")
    assert refused.value.retry_after_seconds
