"""The descriptor configuration: what is read from it, what is refused and with which words."""

from collections.abc import Sequence

import pytest

from chassis.errors import Invalid
from services.ratelimit.model.descriptors import DescriptorBook, Rule
from services.ratelimit.model.limits import Algorithm
from services.ratelimit.rules.envoy import load_descriptors

LIMIT = "rate_limit: { unit: minute, requests_per_unit: 20 }"
GOOD = f"domain: shop\ndescriptors:\n  - key: user\n    {LIMIT}\n"


def load(*texts: str, merge: bool = False) -> DescriptorBook:
    return load_descriptors([(f"{number}.yaml", text) for number, text in enumerate(texts)], merge_domains=merge)


def rule(limit: str) -> Rule:
    match = load(f"domain: shop\ndescriptors:\n  - key: user\n    rate_limit: {limit}\n").find("shop", (("user", "a"),))
    assert match is not None
    return match.rule


REFUSED = [
    ("", 1, "the file is empty"),
    ("a: b: c", 1, "this is not YAML"),
    ("domain: ''", 1, "the domain is empty"),
    ("descriptors: []", 1, "the domain is empty"),
    (GOOD.replace("key: user", "key: ''"), 3, "a descriptor has an empty key"),
    (GOOD.replace("key: user", "value: user"), 3, "a descriptor has an empty key"),
    (f"{GOOD}  - key: user\n    {LIMIT}\n", 5, "the descriptor 'user' stands here twice"),
    (GOOD.replace("minute", "fortnight"), 4, "unit must be one of second, minute, hour, day, month, year, week"),
    (GOOD.replace("unit: minute, ", ""), 4, "unit must be one of"),
    (GOOD.replace("requests_per_unit: 20", "unlimited: true"), 4, "what is unlimited has no unit"),
    (GOOD.replace("20", "20, replaces: [{ name: '' }]"), 4, "an entry of replaces is empty"),
    (GOOD.replace("20", "20, name: a, replaces: [{ name: a }]"), 4, "the rule 'a' replaces itself"),
    (GOOD.replace("20", "20, replaces: [a]"), 4, "replaces must be a list of mappings, not of 'a'"),
    (GOOD.replace("key: user", "key: user\n    share_threshold: true"), 4, "share_threshold needs a value with a `*`"),
    (GOOD.replace("key: user", "kay: user"), 3, "unknown key 'kay'; a descriptor has key, value, rate_limit"),
    (GOOD.replace("20", "20, requests_per_second: 3"), 4, "unknown key 'requests_per_second'"),
    (GOOD.replace("key: user", "7: user"), 3, "a key must be a text, not '7'"),
    ("domain: shop\ndescriptors: [user]", 2, "descriptors must be a list of mappings, not of 'user'"),
    ("domain: shop\ndescriptors: user", 2, "descriptors must be a list"),
    ("[shop]", 1, "the file must be a mapping"),
    (GOOD.replace("20", "-1"), 4, "requests_per_unit must be a whole number"),
    (GOOD.replace("20", "4294967296"), 4, "requests_per_unit must be between 0 and 4294967295"),
    (
        GOOD.replace("20", "20, algorithm: leaky"),
        4,
        "algorithm must be one of fixed_window, sliding_window, token_bucket",
    ),
    (GOOD.replace("20", "4000000000, algorithm: token_bucket"), 4, "cannot be counted exactly"),
    (GOOD.replace("20", "20, window_seconds: 99999999"), 4, "window_seconds must be between"),
    ("domain: shop\ndescriptors: &a\n  - key: a\n    descriptors: *a\n", 1, "an alias contains itself"),
    (GOOD.replace("key: user", "key: user\n    shadow_mode: maybe"), 4, "shadow_mode must be true or false"),
    (GOOD.replace("key: user", "key: user\n    metadata: [1]"), 4, "metadata must be a mapping"),
]


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED, ids=[reason[:40] for _, _, reason in REFUSED])
def test_a_wrong_file_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    """File, line and reason, whatever is wrong."""
    with pytest.raises(Invalid) as refused:
        load(text)
    assert refused.value.message.startswith(f"0.yaml:{line}: ")
    assert reason in refused.value.message


CIRCLE = """\
domain: shop
descriptors:
  - { key: a, rate_limit: { unit: day, requests_per_unit: 1, name: one, replaces: [{ name: two }] } }
  - { key: b, rate_limit: { unit: day, requests_per_unit: 1, name: two, replaces: [{ name: three }] } }
  - { key: c, rate_limit: { unit: day, requests_per_unit: 1, name: three, replaces: [{ name: one }] } }
"""


def test_rules_that_replace_each_other_are_refused() -> None:
    """A request that matches all of them would be left without a limit; a chain that ends is right."""
    with pytest.raises(Invalid, match="rules replace each other: one → two → three → one"):
        load(CIRCLE)
    assert len(list(load(CIRCLE.replace(", replaces: [{ name: one }]", "")).rules())) == 3


def test_a_domain_is_in_one_file_unless_files_are_merged() -> None:
    """Two files of one domain are refused by default; merged, a descriptor still stands in one of them only."""
    other = GOOD.replace("user", "path")
    with pytest.raises(Invalid, match=r"1\.yaml:1: the domain 'shop' is configured already"):
        load(GOOD, other)
    assert [one.path for one in load(GOOD, other, merge=True).rules()] == ["shop.user", "shop.path"]
    with pytest.raises(Invalid, match=r"1\.yaml:3: the descriptor 'user' stands here twice"):
        load(GOOD, GOOD, merge=True)


def test_units_are_as_long_as_in_envoys_service() -> None:
    """From a second to a year of 365 days, in either case."""
    found = [rule(f"{{ unit: {unit}, requests_per_unit: 1 }}") for unit in ("Second", "WEEK", "month", "year")]
    assert [(one.unit, one.limit.window_us // 1_000_000) for one in found if one.limit] == [
        (1, 1),
        (7, 604800),
        (5, 2592000),
        (6, 31536000),
    ]


def test_algorithms_and_windows_of_ours_are_opt_in() -> None:
    """Without extra keys it is a fixed window that counts what it denies; with them what they say."""
    plain = rule("{ unit: minute, requests_per_unit: 20 }").limit
    sliding = rule("{ requests_per_unit: 20, algorithm: sliding_window, window_seconds: 90 }")
    bucket = rule("{ unit: minute, requests_per_unit: 20, algorithm: token_bucket }").limit
    assert plain is not None
    assert (plain.algorithm, plain.counts_denied) == (Algorithm.FIXED_WINDOW, True)
    assert sliding.limit is not None
    assert (sliding.limit.algorithm, sliding.limit.window_us, sliding.unit) == (Algorithm.SLIDING_WINDOW, 90_000_000, 0)
    assert bucket is not None
    assert (bucket.algorithm, bucket.rate) == (Algorithm.TOKEN_BUCKET, 20)


def test_what_limits_nothing_needs_no_counter() -> None:
    """Unlimited has none; a limit of 0 is counted under one of 1."""
    nothing, everything = rule("{ unlimited: yes }"), rule("{ unit: day, requests_per_unit: 0 }")
    assert (nothing.limit, nothing.unlimited) == (None, True)
    assert everything.limit is not None
    assert (everything.limit.limit, everything.requests_per_unit) == (1, 0)


def paths(text: str) -> Sequence[str]:
    return [one.path for one in load(text).rules()]


def test_yaml_may_take_parts_over() -> None:
    """Anchors, aliases and merges mean what they mean; what a merge brings is overridden by what stands there."""
    text = f"domain: shop\ndescriptors:\n  - &a {{ key: a, value: x, {LIMIT} }}\n  - {{ <<: *a, key: b }}\n"
    assert paths(text) == ["shop.a_x", "shop.b_x"]


def test_known_keys_in_the_wrong_place_are_passed_over() -> None:
    """As envoyproxy/ratelimit reads them: only keys that it does not know at all are refused."""
    assert paths(GOOD.replace("key: user", "key: user\n    unit: day")) == ["shop.user"]
