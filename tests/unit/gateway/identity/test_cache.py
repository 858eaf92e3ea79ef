from datetime import timedelta

import pytest

from services.gateway.identity.cache import VerifiedCredentials
from services.gateway.identity.model import BadCredential, Principal
from tests.support.clock import FakeClock
from tests.unit.gateway.identity.world import World

ANN = Principal(user_id="u1", username="ann", role="user", session_id="s1")
BEN = Principal(user_id="u2", username="ben", role="user", key_id="k2")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock: FakeClock) -> VerifiedCredentials:
    return VerifiedCredentials(clock, capacity=2)


def test_a_credential_holds_until_it_expires(cache: VerifiedCredentials, clock: FakeClock):
    """An entry ends with its credential, to the second; one without an end stays."""
    cache.put("a", ANN, clock.now() + timedelta(seconds=60), cache.version)
    cache.put("b", BEN, None, cache.version)
    clock.advance(59.9)
    assert cache.get("a") == ANN
    clock.advance(0.1)
    assert (cache.get("a"), cache.get("b")) == (None, BEN)


def test_the_oldest_makes_room(cache: VerifiedCredentials):
    """The cache never holds more than its capacity."""
    for name in ("a", "b", "c"):
        cache.put(name, ANN, None, cache.version)
    assert (len(cache), cache.get("a"), cache.get("c")) == (2, None, ANN)


@pytest.mark.parametrize("subject", ["u1", "s1"])
def test_a_change_ends_what_it_is_about(cache: VerifiedCredentials, subject: str):
    """Users, sessions and keys are subjects; others stay."""
    cache.put("a", ANN, None, cache.version)
    cache.put("b", BEN, None, cache.version)
    cache.forget({subject})
    assert (cache.get("a"), cache.get("b")) == (None, BEN)
    cache.forget({"k2"})
    assert cache.get("b") is None


def test_what_was_read_before_news_came_is_not_kept(cache: VerifiedCredentials):
    """A verification that raced with a revocation must not resurrect the credential."""
    before = cache.version
    cache.forget({"u1"})
    cache.put("a", ANN, None, before)
    assert cache.get("a") is None


async def test_a_key_revoked_on_one_replica_ends_on_the_other():
    """One poll after the revocation the other replica refuses the key."""
    here = World()
    there = World(here.clock, here.memory)
    await here.user()
    key = await here.key()
    await there.invalidation.poll()
    principal = await there.identity.authenticate(key)
    await here.identity.revoke_key(principal, principal.key_id)
    assert there.identity.recall(key) is not None
    await there.invalidation.poll()
    with pytest.raises(BadCredential):
        await there.identity.authenticate(key)


async def test_news_that_come_again_end_nothing_twice():
    """A change that the feed repeats is acted on once, so that a verified credential stays."""
    world = World()
    await world.user()
    await world.invalidation.poll()
    key = await world.key()
    world.memory.announce("somebody")
    await world.invalidation.poll()
    await world.identity.authenticate(key)
    world.invalidation._horizon = 1
    version = world.cache.version
    await world.invalidation.poll()
    assert (world.cache.version, world.identity.recall(key) is not None) == (version, True)


async def test_after_a_long_silence_everything_is_forgotten():
    """A replica that was cut off for half a day trusts nothing it remembers."""
    world = World()
    await world.user()
    await world.invalidation.poll()
    token = await world.token()
    await world.identity.authenticate(token)
    world.clock.advance(13 * 3600)
    await world.invalidation.poll()
    assert len(world.cache) == 0
