"""The rules file: the built-in one, what is refused and with which words, reloading."""

from itertools import pairwise
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


def with_(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


IN_FLIGHT = GOOD.replace("sliding_window", "concurrency").replace("window: 1m", "lease: 10s")
BUCKET = GOOD.replace("sliding_window", "token_bucket")
NINE = "".join(f"    - {RULE.replace('chat', f'chat{number}')}\n" for number in range(9))
# Eight aliases a line, each of eight aliases: a billion nodes for whoever writes them out.
LAUGHS = "".join(f"  {two}: &{two} [{', '.join([f'*{one}'] * 8)}]\n" for one, two in pairwise("abcdefghij"))
WINDOW = "window must be a duration such as 5s, 1m, 12h or 1d, at most 366d"
LEASE = "lease must be a duration such as 5s, 1m, 12h or 1d, at most 10s"
FIELDS = "name, algorithm, per, limit, window, rate, lease, shadow, on_store_failure"

# What is wrong → the text, and the whole sentence after the file's name.
REFUSED = {
    "empty": ("", "1: the file is empty"),
    "a comment alone": ("# no rules\n", "1: the file is empty"),
    "no YAML": ("version: 1\nclasses: [", "3: this is not YAML: did not find expected node content"),
    "prose": ("Ten per minute: that is: all", "1: this is not YAML: mapping values are not allowed in this context"),
    "a scalar": ("ten", "1: the file must be a mapping"),
    "a tab": (with_("    - ", "\t- "), "4: this is not YAML: found character that cannot start any token"),
    "a control character": (GOOD + "# \x01", "5: this is not YAML: control characters are not allowed"),
    "two documents": (f"{GOOD}---\n{GOOD}", "5: this is not YAML: but found another document"),
    "an unknown alias": (with_("limit: 10", "limit: *ten"), "4: this is not YAML: found undefined alias"),
    "deep nesting": ("[" * 100_000, "1: nested deeper than 16 levels"),
    "a node in itself": ("version: 1\nclasses:\n  v1: &v1 [*v1]\n", "3: a rule must be a mapping"),
    "a billion laughs": (f"version: 1\nclasses:\n  a: &a [x]\n{LAUGHS}", "3: a rule must be a mapping"),
    "too large": (GOOD + "#" * 300_000, "1: the file is larger than 262144 bytes"),
    "another version": ("version: 2\nclasses: {}", "1: version must be between 1 and 1, not 2"),
    "no classes": ("version: 1", "1: the file lacks 'classes'"),
    "none in them": ("version: 1\nclasses: {}", "2: classes must name at least one class with rules"),
    "a list of classes": ("version: 1\nclasses: []", "2: classes must be a mapping"),
    "an unknown section": (
        "version: 1\nkind: x\nclasses: {}",
        "2: the file has no field 'kind'; it has version, classes, exact_up_to, overrides",
    ),
    "a merge key": (
        "version: 1\nclasses:\n  <<: {}",
        "3: '<<' is no name of a class: lower-case words with dots between them",
    ),
    "a class's name": (
        "version: 1\nclasses:\n  V1: []",
        "3: 'V1' is no name of a class: lower-case words with dots between them",
    ),
    "an empty class": ("version: 1\nclasses:\n  v1: []", "3: class v1 must be a list with something in it"),
    "a class twice": (GOOD + "  v1.chat: v1.chat", "5: 'v1.chat' stands here twice"),
    "a class of nobody's rules": (GOOD + "  a: b", "5: class a refers to 'b', which is no class with rules of its own"),
    "classes in a circle": (
        GOOD + "  a: b\n  b: a",
        "5: class a refers to 'b', which is no class with rules of its own",
    ),
    "a class of its own rules": (
        GOOD + "  a: a",
        "5: class a refers to 'a', which is no class with rules of its own",
    ),
    "nine rules": (f"version: 1\nclasses:\n  v1:\n{NINE}", "12: class v1 has more than 8 rules"),
    "a rule's name twice": (f"{GOOD}  v2:\n    - {RULE}", "6: rule chat is already in line 4"),
    "a rule twice in a class": (GOOD + "    - chat", "5: class v1.chat has rule chat twice"),
    "an unknown rule": (GOOD + "    - talk", "5: class v1.chat names rule 'talk', which the file does not have"),
    "a rule's name": (
        with_("name: chat", "name: Chat!"),
        "4: 'Chat!' is no name of a rule: lower-case letters, digits and _",
    ),
    "a long name": (
        with_("name: chat", f"name: {'c' * 65}"),
        f"4: '{'c' * 64}…' is no name of a rule: lower-case letters, digits and _",
    ),
    "no name": (with_("name: chat, ", ""), "4: a rule lacks 'name'"),
    "a misspelt field": (with_("name: chat", "nmae: chat"), f"4: a rule has no field 'nmae'; it has {FIELDS}"),
    "a field twice": (with_("limit: 10", "limit: 10, limit: 11"), "4: 'limit' stands here twice"),
    "a limit of 0": (with_("limit: 10", "limit: 0"), "4: limit must be between 1 and 1000000000000, not 0"),
    "a limit below 0": (with_("limit: 10", "limit: -1"), "4: limit must be a whole number"),
    "a limit in words": (with_("limit: 10", "limit: ten"), "4: limit must be a whole number"),
    "a limit as a text": (with_("limit: 10", "limit: '10'"), "4: limit must be a whole number"),
    "half a request": (with_("limit: 10", "limit: 1.5"), "4: limit must be a whole number"),
    "an octal limit": (with_("limit: 10", "limit: 010"), "4: limit must be a whole number"),
    "no limit": (with_("limit: 10", "limit: null"), "4: limit must be a whole number"),
    "a limit for no role": (
        with_("limit: 10", "limit: {}"),
        "4: limit must be a number, or a number for each role, 32 at most",
    ),
    "a role's limit": (
        with_("limit: 10", "limit: { user: 0 }"),
        "4: limit of user must be between 1 and 1000000000000, not 0",
    ),
    "a role's name": (with_("limit: 10", "limit: { User: 10 }"), "4: 'User' is no name of a role"),
    "a window of 0": (with_("window: 1m", "window: 0s"), f"4: {WINDOW}"),
    "a window of years": (with_("window: 1m", "window: 400d"), f"4: {WINDOW}"),
    "a window without unit": (with_("window: 1m", "window: 60"), f"4: {WINDOW}"),
    "no window": (with_(", window: 1m", ""), "4: a rule of sliding_window lacks 'window'"),
    "an unknown algorithm": (
        with_("sliding_window", "leaky"),
        "4: algorithm must be one of fixed_window, sliding_window, token_bucket, concurrency; not 'leaky'",
    ),
    "per nobody": (
        with_("per: user", "per: moon"),
        "4: per must be all, or some of user, api_key, ip, model, role; not 'moon'",
    ),
    "per user twice": (with_("per: user", "per: [user, user]"), "4: per names the same thing twice"),
    "a rate without bucket": (with_("1m", "1m, rate: 5"), "4: a rule of sliding_window has no rate"),
    "a rate of 0": (BUCKET.replace("1m", "1m, rate: 0"), "4: rate must be between 1 and 75059993, not 0"),
    "a bucket too large": (
        BUCKET.replace("10", "99999999999"),
        "4: limit must be between 1 and 75059993, not 99999999999",
    ),
    "a lease of a window": (with_("1m", "1m, lease: 5s"), "4: a rule of sliding_window has no lease"),
    "a window in flight": (IN_FLIGHT.replace("10s", "10s, window: 1m"), "4: a rule of concurrency has no window"),
    "no lease": (IN_FLIGHT.replace(", lease: 10s", ""), "4: a rule of concurrency lacks 'lease'"),
    "a long lease": (IN_FLIGHT.replace("10s", "11s"), f"4: {LEASE}"),
    "a lease of 0": (IN_FLIGHT.replace("10s", "0s"), f"4: {LEASE}"),
    "too many at once": (
        IN_FLIGHT.replace("limit: 10", "limit: 10001"),
        "4: limit must be between 1 and 10000, not 10001",
    ),
    "half a shadow": (with_("1m", "1m, shadow: 1"), "4: shadow must be true or false"),
    "an unknown fallback": (
        with_("1m", "1m, on_store_failure: maybe"),
        "4: on_store_failure must be one of share, allow, deny; not 'maybe'",
    ),
    "an override for a role": (
        GOOD + "overrides: { role: {} }",
        "5: overrides are for api_key, user, ip; not for 'role'",
    ),
    "an override of no rule": (
        GOOD + "overrides: { user: { anna: { talk: 5 } } }",
        "5: overrides of user 'anna' names rule 'talk', which the file does not have",
    ),
    "an override of 0": (
        GOOD + "overrides: { user: { anna: { chat: 0 } } }",
        "5: override of chat must be between 1 and 1000000000000, not 0",
    ),
    "an override in words": (
        GOOD + "overrides: { user: { anna: { chat: much } } }",
        "5: override of chat must be a whole number",
    ),
    "many classes": (
        GOOD + "".join(f"  a{number}: v1.chat\n" for number in range(1000)),
        "3: there are more than 1000 classes",
    ),
    "many overrides": (
        f"{GOOD}overrides:\n  user:\n    a: &a {{ chat: 5 }}\n"
        + "".join(f"    a{number}: *a\n" for number in range(10_000)),
        "10007: there are more than 10000 overrides",
    ),
    "a caller twice": (GOOD + "overrides:\n  ip:\n    a: { chat: 5 }\n    a: { chat: 6 }", "8: 'a' stands here twice"),
    "an override twice": (GOOD + "overrides: { user: { anna: { chat: 5, chat: 6 } } }", "5: 'chat' stands here twice"),
    "a list of overrides": (GOOD + "overrides: [anna]", "5: overrides must be a mapping"),
    "an id of control characters": (
        GOOD + 'overrides: { user: { "a\\0b": { chat: 6 } } }',
        r"5: 'a\x00b' is no id of a user",
    ),
    "too long logs": (
        with_("version: 1", "version: 1\nexact_up_to: 20000"),
        "2: exact_up_to must be between 0 and 10000, not 20000",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_file_is_refused_with_its_line(text: str, sentence: str) -> None:
    """File, line and reason, whatever is wrong; line and reason in the details besides."""
    with pytest.raises(Invalid) as refused:
        load_book("limits.yaml", text)
    assert refused.value.message == f"limits.yaml:{sentence}"
    line, reason = sentence.split(": ", 1)
    assert (refused.value.code, refused.value.details) == ("BAD_RULES", {"line": line, "reason": reason})


def test_an_alias_shares_the_rule_and_its_counter() -> None:
    """Two classes with one rule by alias ask the same counter."""
    text = GOOD.replace(f"- {RULE}", f"- &chat {RULE}") + "  openai.chat:\n    - *chat\n"
    book = load_book("limits.yaml", text)
    asks = [book.ask(Subject(name, user="anna")) for name in ("v1.chat", "openai.chat")]
    assert asks[0].keys == asks[1].keys
    assert asks[0].limits == asks[1].limits


def test_a_file_that_is_away_or_binary_is_refused(tmp_path: Path) -> None:
    """The process does not start with rules it cannot read, and says which file."""
    with pytest.raises(Invalid, match=r"away\.yaml:1: the rules file cannot be read: No such file"):
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
