"""Which counters a subject falls under."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Invalid
from services.ratelimit.model.book import RuleBook, key_maker
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import MAX_COST, Algorithm, Limit, Subject, limit_of


def limit(per: tuple[str, ...], rule: str = "rule") -> Limit:
    return limit_of(rule=rule, algorithm=Algorithm.FIXED_WINDOW, per=per, limit=1, window_us=1_000_000)


def book(**classes: Limit) -> RuleBook:
    found = {name.replace("_", "."): ({"default": one},) for name, one in classes.items()}
    return RuleBook(classes=found, source="", generation=1)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(first=st.tuples(TEXTS, TEXTS), second=st.tuples(TEXTS, TEXTS))
def test_no_two_subjects_share_a_key(first: tuple[str, str], second: tuple[str, str]) -> None:
    """Whatever the parts contain, keys are equal only when all parts are."""
    make = key_maker(limit(("user", "model")))
    keys = [make(Subject("c", user=user, model=model)) for user, model in (first, second)]
    assert (keys[0] == keys[1] and None not in keys) == (first == second and all(first))


def test_a_key_cannot_be_forged_from_a_digest() -> None:
    """A long name and another one that is its digest have keys of their own, and both are short."""
    make = key_maker(limit(("user",)))
    long = make(Subject("c", user="x" * 65_536)) or ""
    digest = long.split(":")[2].rstrip("}")
    assert make(Subject("c", user=digest)) != long
    assert len(long) < 100


def test_the_first_part_is_the_hash_tag() -> None:
    """All rules of one user live in one slot."""
    keys = [key_maker(limit(("user",), rule))(Subject("c", user="anna")) for rule in ("one", "two")]
    assert [key.partition("}")[0] for key in keys if key] == ["rl:{4:anna", "rl:{4:anna"]


def test_a_rule_for_all_has_one_key() -> None:
    """Without a dimension everybody shares the counter."""
    make = key_maker(limit(()))
    assert make(Subject("c", user="anna")) == make(Subject("c"))


def test_a_subject_without_the_dimension_does_not_match() -> None:
    """No API key: no rule keyed by it."""
    asked = book(v1_chat=limit(("api_key",))).ask(Subject("v1.chat", user="anna"))
    assert asked.keys == ()


@pytest.mark.parametrize(
    ("route_class", "found"),
    [
        ("v1.chat", "v1.chat"),
        ("v1.chat.stream", "v1.default"),
        ("v1.files.read", "v1.files.default"),
        ("v1.other", "v1.default"),
        ("v1.default", "v1.default"),
    ],
)
def test_classes_fall_back_to_the_nearest_default(route_class: str, found: str) -> None:
    """Its own rules, else those of the nearest default above."""
    rules = book(v1_chat=limit(("user",)), v1_default=limit(("user",)), v1_files_default=limit(("user",)))
    assert rules.find(route_class) == found


@pytest.mark.parametrize("route_class", ["v2.chat", "v1", "", "default", "v1.chat.default"])
def test_an_unknown_class_is_named(route_class: str) -> None:
    """No rules and no default above: an error that shows the class."""
    with pytest.raises(Invalid, match="Unknown route class") as refused:
        book(v1_chat=limit(("user",))).ask(Subject(route_class, user="anna"))
    assert repr(route_class) in refused.value.message


@pytest.mark.parametrize("cost", [-1, MAX_COST + 1, 4_294_967_295])
def test_a_cost_out_of_range_is_named(cost: int) -> None:
    """Huge costs are the caller's mistake and are shown to it."""
    with pytest.raises(Invalid, match=str(cost)):
        book(v1_chat=limit(("user",))).ask(Subject("v1.chat", user="anna", cost=cost))


def test_what_callers_send_does_not_fill_the_memory() -> None:
    """Plans are remembered for a bounded number of names."""
    rules = book(v1_default=limit(("user",)))
    for number in range(10_000):
        rules.ask(Subject(f"v1.c{number}", user="anna"))
    assert len(rules._plans) <= 4096


def test_a_share_admits_at_least_one() -> None:
    """A limit of one among three instances is one each, for windows and buckets alike."""
    for algorithm in Algorithm:
        one = limit_of(rule="r", algorithm=algorithm, per=(), limit=1, window_us=1_000_000)
        assert one.share(3).capacity >= one.share(3).unit
    ten = limit_of(rule="r", algorithm=Algorithm.SLIDING_WINDOW, per=(), limit=10, window_us=1_000_000)
    assert ten.share(3).capacity == 3


@pytest.mark.parametrize(
    ("algorithm", "wrong", "words"),
    [
        (Algorithm.FIXED_WINDOW, {"limit": 0}, "limit must be between 1"),
        (Algorithm.SLIDING_WINDOW, {"limit": -1}, "limit must be between 1"),
        (Algorithm.SLIDING_WINDOW, {"window_us": 0}, "window must be between 1"),
        (Algorithm.TOKEN_BUCKET, {"window_us": 0}, "window must be between 1"),
        (Algorithm.TOKEN_BUCKET, {"limit": 2**40}, "limit must be between 1"),
        (Algorithm.TOKEN_BUCKET, {"rate": -1}, "rate must be between 1"),
        (Algorithm.CONCURRENCY, {"limit": 10_001}, "limit must be between 1 and 10000"),
        (Algorithm.CONCURRENCY, {"lease_us": 0}, "lease must be between 1"),
        (Algorithm.CONCURRENCY, {"lease_us": 10_000_001}, "lease must be between 1"),
        (Algorithm.SLIDING_WINDOW, {"counts_denied": True}, "only a fixed window"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(algorithm: Algorithm, wrong: dict[str, Any], words: str) -> None:
    """Nothing that could never pass, never end, or not be counted exactly."""
    right: dict[str, Any] = {"rule": "r", "algorithm": algorithm, "per": (), "limit": 1, "window_us": 60_000_000}
    limit_of(**right)
    with pytest.raises(Invalid, match=f"rule r: {words}"):
        limit_of(**(right | wrong))


def test_identities_of_64_kilobytes_are_counted_apart() -> None:
    """However long, each has a counter of its own under a short key."""
    rules = book(v1_chat=limit(("user", "model", "api_key", "ip", "role")))
    long = ["x" * 65_535 + last for last in "ab"]
    asks = [rules.ask(Subject("v1.chat", one, "user", one, one, one)) for one in long]
    assert len({ask.keys for ask in asks}) == 2
    assert all(len(key) < 300 for ask in asks for key in ask.keys)


def test_of_an_unknown_class_nothing_is_given_and_nothing_is_asked_back() -> None:
    """To look is refused; to hold on and to give back means nothing any more when the class has gone meanwhile."""
    rules, lost = book(v1_chat=limit(("user",))), Subject("moon", user="anna", hold="h")
    with pytest.raises(Invalid, match="Unknown route class 'moon'"):
        rules.peek(lost)
    for action in (Action.REFUND, Action.RENEW, Action.RELEASE):
        assert rules.errand(lost, Errand(action)).keys == ()
