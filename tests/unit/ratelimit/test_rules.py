"""The rules file: the built-in one, what is refused and with which words, reloading."""

from pathlib import Path

import pytest

from chassis.errors import Invalid
from services.ratelimit.model.limits import Algorithm, Subject
from services.ratelimit.rules.file import RuleFile, read_book
from services.ratelimit.rules.loader import load_book

RULE = "{ name: chat, algorithm: sliding_window, per: user, limit: 10, window: 1m }"
GOOD = f"version: 1\nclasses:\n  v1.chat:\n    - {RULE}\n"

# API.md §5: route class → role → (limit, window in seconds) of each rule.
SEEDS = {
    ("cwmai.general", "user"): [(60, 60), (1000, 3600), (10, 1)],
    ("cwmai.ai", "user"): [(10, 60), (100, 3600)],
    ("cwmai.tasks.create", "user"): [(20, 60)],
    ("cwmai.tasks.list", "user"): [(60, 60)],
    ("cwmai.tasks.status", "user"): [(30, 60)],
    ("cwmai.tasks.metrics", "user"): [(60, 60)],
    ("cwmai.tasks.ws", "user"): [(100, 60)],
    ("aios.agents", "user"): [(100, 60)],
    ("aios.agents", "admin"): [(200, 60)],
    ("support.tickets", "user"): [(100, 60)],
    ("v1.chat", "admin"): [(10, 60)],
    ("v1.models", "user"): [(100, 60)],
    ("v1.tasks", "user"): [(50, 60)],
    ("v1.cache", "user"): [(1000, 60)],
    ("v1.agents.list", "service"): [(100, 60)],
    ("v1.agents.list", "admin"): [(200, 60)],
    ("orchestrator.run", "admin"): [(200, 60)],
    ("openai.chat", "user"): [(100, 60)],
}


@pytest.mark.parametrize(("who", "expected"), SEEDS.items(), ids=str)
def test_the_default_file_holds_the_numbers_of_the_seeds(who, expected) -> None:
    """Every class and role of API.md §5 has its limits and windows."""
    route_class, role = who
    limits = read_book(None).ask(Subject(route_class, user="anna", role=role)).limits
    assert [(one.limit, one.window_seconds) for one in limits] == expected


def test_burst_is_a_token_bucket_and_the_rest_slides() -> None:
    """The general class has the three algorithms' worth of rules that the seed names."""
    limits = read_book(None).ask(Subject("cwmai.general", user="anna")).limits
    assert [one.algorithm for one in limits] == [Algorithm.SLIDING_WINDOW] * 2 + [Algorithm.TOKEN_BUCKET]
    assert limits[0].rule == "api_general"


REFUSED = {
    "": "1: the file is empty",
    "version: 1\nclasses: [": "this is not YAML",
    "version: 2\nclasses: {}": "1: version must be between 1 and 1, not 2",
    "version: 1": "1: the file lacks 'classes'",
    "version: 1\nclasses: {}": "classes must name at least one class",
    "version: 1\nkind: x\nclasses: {}": "2: the file has no field 'kind'",
    "version: 1\nclasses:\n  V1: []": "3: 'V1' is no name of a class",
    "version: 1\nclasses:\n  v1: []": "3: class v1 must be a list with something in it",
    "version: 1\nclasses:\n  v1: v2": "3: classes must name at least one class",
    GOOD + "  v2: v3": "5: class v2 refers to 'v3'",
    GOOD + f"  v2:\n    - {RULE}": "6: rule chat is already in line 4",
    GOOD + "  v1.chat: v1.chat": "5: 'v1.chat' stands here twice",
    GOOD.replace("limit: 10", "limit: 0"): "4: limit must be between 1 and 1000000000000, not 0",
    GOOD.replace("limit: 10", "limit: -1"): "4: limit must be a whole number",
    GOOD.replace("limit: 10", "limit: ten"): "4: limit must be a whole number",
    GOOD.replace("limit: 10", "limit: { user: 0 }"): "4: limit of user must be between",
    GOOD.replace("window: 1m", "window: 0s"): "4: window must be a duration",
    GOOD.replace("window: 1m", "window: 400d"): "4: window must be a duration",
    GOOD.replace("window: 1m", "window: 60"): "4: window must be a duration",
    GOOD.replace("sliding_window", "leaky"): "4: algorithm must be one of fixed_window, sliding_window, token_bucket",
    GOOD.replace("per: user", "per: moon"): "4: per must be all, or some of",
    GOOD.replace("per: user", "per: [user, user]"): "4: per names the same thing twice",
    GOOD.replace("window: 1m", "window: 1m, rate: 5"): "4: rate belongs to a token_bucket",
    GOOD.replace("name: chat", "name: Chat!"): "4: 'Chat!' is no name of a rule",
    GOOD.replace("name: chat, ", ""): "4: a rule lacks 'name'",
    GOOD.replace("name: chat", "nmae: chat"): "4: a rule has no field 'nmae'",
    GOOD.replace("sliding_window", "token_bucket").replace("10", "99999999999"): "4: limit must be between 1 and",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=lambda one: one[-40:])
def test_a_wrong_file_is_refused_with_its_line(text: str, reason: str) -> None:
    """File, line and reason, whatever is wrong."""
    with pytest.raises(Invalid) as refused:
        load_book("limits.yaml", text)
    assert refused.value.message.startswith("limits.yaml:")
    assert reason in refused.value.message


def test_an_alias_shares_the_rule_and_its_counter() -> None:
    """Two classes with one rule by alias ask the same counter."""
    text = GOOD.replace(f"- {RULE}", f"- &chat {RULE}") + "  openai.chat:\n    - *chat\n"
    book = load_book("limits.yaml", text)
    asks = [book.ask(Subject(name, user="anna")) for name in ("v1.chat", "openai.chat")]
    assert asks[0].keys == asks[1].keys
    assert asks[0].limits == asks[1].limits


def test_a_file_that_is_away_or_binary_is_refused(tmp_path: Path) -> None:
    """The process does not start with rules it cannot read, and says which file."""
    with pytest.raises(Invalid, match=r"away\.yaml: the rules file cannot be read"):
        RuleFile(tmp_path / "away.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"version: 1\n\xff\xfe")
    with pytest.raises(Invalid, match=r"binary\.yaml:2: this is not YAML: not UTF-8"):
        RuleFile(tmp_path / "binary.yaml")


def test_a_reload_keeps_the_old_rules_when_the_new_ones_are_wrong(tmp_path: Path) -> None:
    """A wrong text changes nothing and is remembered as a problem; a right one is in force."""
    path = tmp_path / "limits.yaml"
    path.write_text(GOOD)
    rules = RuleFile(path)
    first = rules.book.generation
    path.write_text(GOOD.replace("limit: 10", "limit: 0"))
    rules.reload()
    assert rules.book.generation == first
    assert f"{path}:4:" in rules.problem
    path.write_text(GOOD.replace("limit: 10", "limit: 11"))
    rules.reload()
    assert rules.problem == ""
    assert rules.book.generation != first
    assert rules.book.ask(Subject("v1.chat", user="anna")).limits[0].limit == 11
