"""Descriptors: which rule holds, what it is counted by, and that no two share a counter."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ratelimit.model.descriptors import Entries, Match, Pattern, counter_key
from services.ratelimit.rules.envoy import envoy_limit, load_descriptors

FILE = """\
domain: shop
descriptors:
  - { key: path, value: /a*, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: path, value: /ab*, rate_limit: { unit: day, requests_per_unit: 2 } }
  - { key: path, value: /abc, rate_limit: { unit: day, requests_per_unit: 3 } }
  - { key: path, rate_limit: { unit: day, requests_per_unit: 4 } }
  - { key: file, value: "*.png", share_threshold: true, rate_limit: { unit: day, requests_per_unit: 5 } }
  - key: tenant
    value_to_metric: true
    descriptors:
      - { key: route, value: chat, rate_limit: { unit: day, requests_per_unit: 6 } }
      - { key: route, detailed_metric: true, rate_limit: { unit: day, requests_per_unit: 7 } }
  - key: middle
    rate_limit: { unit: day, requests_per_unit: 8 }
    descriptors:
      - { key: leaf, rate_limit: { unit: day, requests_per_unit: 9 } }
  - { key: "head*", rate_limit: { unit: day, requests_per_unit: 10 } }
"""
BOOK = load_descriptors([("shop.yaml", FILE)])
LIMIT = envoy_limit(5, 60, next(iter(BOOK.rules())).limit.algorithm, counts_denied=True)  # type: ignore[union-attr]


def find(*entries: tuple[str, str]) -> Match | None:
    return BOOK.find("shop", entries)


FOUND = [
    ((("path", "/abc"),), 3),
    ((("path", "/abd"),), 1),
    ((("path", "/x"),), 4),
    ((("path", ""),), 4),
    ((("file", "a.png"),), 5),
    ((("file", "a.gif"),), None),
    ((("tenant", "t"), ("route", "chat")), 6),
    ((("tenant", "t"), ("route", "x")), 7),
    ((("tenant", "t"),), None),
    ((("tenant", "t"), ("route", "chat"), ("deeper", "1")), None),
    ((("middle", ""),), 8),
    ((("middle", ""), ("leaf", "1")), 9),
    ((("middle", ""), ("other", "1")), None),
    ((("header", "v"),), 10),
    ((("nothing", "v"),), None),
    ((), None),
]


@pytest.mark.parametrize(("entries", "requests"), FOUND, ids=str)
def test_the_rule_is_exact_then_by_wildcard_in_order_then_bare(entries: Entries, requests: int | None) -> None:
    """And it stands exactly as deep as the descriptor is long."""
    match = find(*entries)
    assert (match.rule.requests_per_unit if match is not None else None) == requests


def test_an_unknown_domain_has_no_rules() -> None:
    """Nothing is found there."""
    assert BOOK.find("bank", (("path", "/abc"),)) is None


NAMES = [
    ((("path", "/abd"),), "shop.path_/a*"),
    ((("path", "/abc"),), "shop.path_/abc"),
    ((("path", "/x"),), "shop.path"),
    ((("tenant", "t"), ("route", "chat")), "shop.tenant_t.route_chat"),
    ((("tenant", "t"), ("route", "x")), "shop.tenant_t.route_x"),
    ((("file", "a.png"),), "shop.file_*.png"),
]


@pytest.mark.parametrize(("entries", "name"), NAMES, ids=str)
def test_statistics_are_named_by_configuration_or_value(entries: Entries, name: str) -> None:
    """By the configured value, by the request's where `value_to_metric` or `detailed_metric` say so."""
    match = find(*entries)
    assert match is not None
    assert match.statistics == name


def test_a_shared_threshold_counts_all_values_of_its_pattern_together() -> None:
    """Different files, one counter."""
    first, second = find(("file", "a.png")), find(("file", "b.png"))
    assert first is not None
    assert second is not None
    assert first.entries == second.entries == (("file", "*.png"),)


def key(entries: Entries, domain: str = "shop") -> str:
    return counter_key("", domain, entries, LIMIT, by_domain=False)


def test_descriptors_that_envoys_service_confuses_are_apart() -> None:
    """There the parts are joined by `_`: these make one counter in it."""
    assert key((("user", "x_path_y"),)) != key((("user", "x"), ("path", "y")))
    assert key((("a", "b_c"),)) != key((("a_b", "c"),))
    assert key((("b", "c"),), "shop_a") != key((("a", "b"), ("c", "")), "shop")


TEXTS = st.text(alphabet="ab_:#{}1 ", max_size=4) | st.sampled_from(["x" * 64, "x" * 65, "y" * 65, "1:a1:b", "2:ab"])
ENTRIES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=10).map(tuple)


@given(TEXTS, ENTRIES, TEXTS, ENTRIES)
def test_no_two_descriptors_share_a_key(domain: str, entries: Entries, other: str, others: Entries) -> None:
    """Whatever stands in their parts: the same key, the same descriptor."""
    assert (key(entries, domain) == key(others, other)) == ((domain, entries) == (other, others))


def test_keys_stay_short() -> None:
    """Parts of 64 KB, many parts: the key does not grow with them."""
    assert len(key((("k" * 65536, "v" * 65536),), "d" * 65536)) < 300
    assert len(key(tuple((f"key-{number}", "v" * 60) for number in range(64)))) < 300


def test_counters_taken_together_have_one_slot() -> None:
    """The hash tag of Redis Cluster is the descriptor's, or the domain's where all of it is taken together."""
    pair = [(("a", "1"),), (("b", "2"),)]
    apart = [counter_key("p:", "shop", one, LIMIT, by_domain=False) for one in pair]
    together = [counter_key("p:", "shop", one, LIMIT, by_domain=True) for one in pair]
    tags = [[one[one.index("{") : one.index("}")] for one in keys] for keys in (apart, together)]
    assert tags[0][0] != tags[0][1]
    assert tags[1][0] == tags[1][1]
    assert all(one.startswith("p:rls:") for one in apart)


PATTERNS = {
    "a*": (("a", "ab", "abc"), ("", "b", "ba")),
    "*a": (("a", "ba"), ("ab", "")),
    "a*b*c": (("abc", "axbxc", "abbcc"), ("ac", "acb", "ab")),
    "**": (("", "x"), ()),
    "a*a": (("aa", "aba"), ("a",)),
    "plain": (("plain",), ("plains", "")),
}


@pytest.mark.parametrize("text", PATTERNS)
def test_a_star_stands_for_anything(text: str) -> None:
    """Anywhere in the pattern, for no character or many; everything else stands for itself."""
    good, bad = PATTERNS[text]
    pattern = Pattern(text)
    assert [one for one, right in product((*good, *bad), [good]) if pattern.matches(one) != (one in right)] == []
