"""What the script leaves in Redis: written in place where it can be, renewed before it would vanish, and never long."""

import random

import pytest

from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from services.ratelimit.ports import Debt
from tests.contract.ratelimit.counters import InMemory, InRedis

pytestmark = pytest.mark.redis

SECOND = 1_000_000
MINUTE = 60 * SECOND
KEY = "{anna}:one"


def limit(algorithm: Algorithm, count: int = 100, *, rate: int = 0, exact: bool = True) -> Limit:
    return limit_of(
        rule="one", algorithm=algorithm, per=("user",), limit=count, window_us=MINUTE, rate=rate, exact=exact
    )


def ask(one: Limit, cost: int = 1, errand: Errand | None = None) -> Ask:
    return Ask((KEY,), (one,), cost, errand)


RING = limit(Algorithm.SLIDING_WINDOW, exact=False)
LOG = limit(Algorithm.SLIDING_WINDOW)
ALL = pytest.mark.parametrize(
    "one",
    [limit(Algorithm.FIXED_WINDOW), limit(Algorithm.TOKEN_BUCKET), LOG, RING],
    ids=["fixed", "bucket", "log", "ring"],
)


@ALL
def test_what_is_in_use_is_renewed_in_time(in_redis: InRedis, one: Limit) -> None:
    """Not with every hit, but always before Redis would drop what still counts."""
    in_redis.decide(ask(one, 10))
    for step, renewed in ((1, False), (SECOND, False), (14 * SECOND, True), (1, False)):
        in_redis.client.pexpire(KEY, 9000)
        in_redis.now_us += step
        assert in_redis.decide(ask(one, 10))[0].allowed
        assert (in_redis.client.pttl(KEY) > MINUTE // 1000) is renewed


def test_a_rule_that_remembers_longer_renews_at_once(in_redis: InRedis) -> None:
    """What was kept for a minute is needed for ten once a bucket drains at a tenth of the rate."""
    in_redis.decide(ask(limit(Algorithm.TOKEN_BUCKET)))
    in_redis.decide(ask(limit(Algorithm.TOKEN_BUCKET, rate=10)))
    assert in_redis.client.pttl(KEY) > 10 * MINUTE // 1000


def test_an_overfull_bucket_is_kept_until_it_has_drained(in_redis: InRedis) -> None:
    """Debts know no limit; nor does giving back a part of them make Redis forget the rest."""
    bucket = limit(Algorithm.TOKEN_BUCKET)
    in_redis.settle(Debt(KEY, bucket, (in_redis.now_us, 500 * MINUTE)))
    assert in_redis.client.pttl(KEY) > 5 * MINUTE // 1000
    in_redis.decide(ask(bucket, 100, Errand(Action.REFUND)))
    assert 5 * MINUTE // 1000 > in_redis.client.pttl(KEY) - 1000 > 3 * MINUTE // 1000


@pytest.mark.parametrize("one", [LOG, RING], ids=["log", "ring"])
@pytest.mark.parametrize("seed", range(4))
def test_a_long_history_is_cut_and_agrees_with_memory(in_redis: InRedis, one: Limit, seed: int) -> None:
    """Hundreds of hits, refunds and pauses: both say the same to the number, and what is over does not stay."""
    chance, memory = random.Random(seed), InMemory()
    in_redis.extra_life_ms = chance.choice([0, 600_000])
    for _ in range(400):
        in_redis.now_us += chance.choice([0, 1, SECOND // 10, SECOND // 2, SECOND]) + (chance.random() < 0.01) * MINUTE
        memory.now_us = in_redis.now_us
        refund = Errand(Action.REFUND, age_us=chance.randint(0, MINUTE)) if chance.random() < 0.1 else None
        asks = [ask(one, chance.randint(0, 3), refund), ask(one, chance.randint(0, 2))]
        assert list(in_redis.decide(*asks)) == list(memory.decide(*asks))
    # At most so many hits count as the limit says, 16 bytes each; what is over takes no more, or half a kilobyte.
    assert in_redis.client.strlen(KEY) <= 2 * 16 * one.limit + 512
