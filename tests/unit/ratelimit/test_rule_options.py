"""What a rules file can say besides limits: rules in flight, shadows, shared rules, limits of single callers."""

import pytest

from services.ratelimit.model.book import RuleBook
from services.ratelimit.model.limits import Algorithm, OnStoreFailure, Subject
from services.ratelimit.rules.file import read_book
from services.ratelimit.rules.loader import load_book

RULES = """\
version: 1
classes:
  chat:
    - { name: minute, algorithm: sliding_window, per: user, limit: 10, window: 1m }
    - { name: hour, algorithm: token_bucket, per: user, limit: { user: 100 }, window: 1h }
    - { name: flight, algorithm: concurrency, per: user, limit: 5, lease: 5s }
  other: [minute]
overrides:
  user:
    anna: { minute: 5000, hour: 7, flight: 9 }
    berta: { minute: unlimited }
    42: { minute: 42 }
  api_key:
    key: { minute: 20 }
  ip:
    "::1": { minute: 30, hour: 8 }
"""


def limits(subject: Subject, book: RuleBook | None = None) -> list[tuple[str, int]]:
    ask = (book or load_book("rules", RULES)).ask(subject)
    return [(one.rule, one.limit) for one in ask.limits]


@pytest.mark.parametrize(
    ("route_class", "expected"),
    [
        ("v1.chat", [("v1_chat", 10), ("v1_chat_in_flight", 5)]),
        ("openai.chat", [("openai", 100), ("v1_chat_in_flight", 5)]),
        ("cwmai.ai", [("ai_generate", 10), ("ai_generate_hour", 100), ("v1_chat_in_flight", 5)]),
        ("v1.models.pull", [("v1_models", 100), ("v1_model_pull_in_flight", 1)]),
        ("v1.tasks.submit", [("v1_tasks", 50), ("v1_task_submit_in_flight", 20)]),
    ],
)
def test_the_default_file_limits_what_is_in_flight(route_class, expected) -> None:
    """Chats, pulls and submissions at the same time, for those who hold a place; nobody keeps one after ten seconds."""
    book = read_book(None)
    assert limits(Subject(route_class, user="anna", hold="h"), book) == expected
    assert limits(Subject(route_class, user="anna"), book) == expected[:-1]
    flight = book.ask(Subject(route_class, user="anna", hold="h")).limits[-1]
    assert (flight.algorithm, flight.window_seconds) == (Algorithm.CONCURRENCY, 10)


def test_chats_count_together_whichever_dialect_they_speak() -> None:
    """One counter for the chats of a user in flight, one for his task submissions and his other task calls."""
    book = read_book(None)
    chats = {book.ask(Subject(name, user="anna", hold="h")).keys[-1] for name in ("v1.chat", "openai.chat", "cwmai.ai")}
    tasks = {book.ask(Subject(name, user="anna")).keys[0] for name in ("v1.tasks", "v1.tasks.submit")}
    assert (len(chats), len(tasks)) == (1, 1)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (Subject("chat", user="clara", role="user"), {"minute": 10, "hour": 100}),
        (Subject("chat", user="anna", role="user", hold="h"), {"minute": 5000, "hour": 7, "flight": 9}),
        # The rule has no limit for this role, and the caller has one all the same.
        (Subject("chat", user="anna", role="admin"), {"minute": 5000, "hour": 7}),
        (Subject("chat", user="berta", role="user"), {"hour": 100}),
        (Subject("chat", user="42"), {"minute": 42}),
        (Subject("chat", user="anna", api_key="key"), {"minute": 20, "hour": 7}),
        (Subject("chat", user="berta", ip="::1"), {"hour": 8}),
        (Subject("chat", user="clara", ip="::1"), {"minute": 30, "hour": 8}),
        (Subject("other", user="anna"), {"minute": 5000}),
    ],
    ids=str,
)
def test_single_callers_have_limits_of_their_own(subject, expected) -> None:
    """In every class that has the rule; a key's before its user's before the address's; `unlimited` is none."""
    assert dict(limits(subject)) == expected


def test_an_override_keeps_the_counter_and_its_kind() -> None:
    """What was used counts on; all limits of one rule count in one way, or they would misread each other's counter."""
    book = load_book("rules", RULES)
    ours, theirs = (book.ask(Subject("chat", user="anna", api_key=key)) for key in ("", "key"))
    assert ours.keys == theirs.keys
    assert {ask.limits[0].granularity_us for ask in (ours, theirs)} == {600_000}


def test_plans_of_overridden_callers_are_told_apart() -> None:
    """Asked for again, and in another order, everybody has his own."""
    book = load_book("rules", RULES)
    for _ in range(2):
        assert limits(Subject("other", user="anna"), book) == [("minute", 5000)]
        assert limits(Subject("other", user="clara"), book) == [("minute", 10)]
        assert limits(Subject("other", user="clara", api_key="key"), book) == [("minute", 20)]


@pytest.mark.parametrize("choice", OnStoreFailure)
def test_a_rule_says_what_it_does_without_the_store(choice: OnStoreFailure) -> None:
    """And whether it is a shadow."""
    text = RULES.replace("window: 1m", f"window: 1m, on_store_failure: {choice}, shadow: true")
    first, second, *_ = load_book("rules", text).ask(Subject("chat", user="clara", role="user")).limits
    assert (first.on_store_failure, first.shadow) == (choice, True)
    assert (second.on_store_failure, second.shadow) == (OnStoreFailure.SHARE, False)


def test_json_is_a_rules_file_too() -> None:
    """The same structure; rules are shared by their names."""
    rule = '{"name": "a", "algorithm": "fixed_window", "per": ["user", "model"], "limit": {"user": 3}, "window": "1m"}'
    text = f'{{"version": 1, "classes": {{"one": [{rule}], "two": ["a"], "three": "one"}}, "overrides": {{}}}}'
    subject = Subject("two", user="anna", model="m", role="user")
    assert limits(subject, load_book("rules", text)) == [("a", 3)]
