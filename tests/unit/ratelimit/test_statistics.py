"""Names in the statistics come from strangers: they take so much memory and no more, and end no line."""

import pytest

from services.ratelimit.descriptors.statistics import Statistics

LARGE = "x" * 1_000_000


def figure(statistics: Statistics, name: str) -> int:
    return dict(statistics.lines())[f"ratelimit.service.rate_limit.{name}"]


def test_large_names_share_one():
    """A megabyte of a domain or of an override's descriptor is not remembered; what happened under it is."""
    statistics = Statistics()
    for number in range(3):
        statistics.count_unknown_domain(f"{LARGE}{number}", 2)
        statistics.of(f"shop.{LARGE}{number}").total_hits += 1
    assert figure(statistics, "other.domain_not_found") == 6
    assert figure(statistics, "other.total_hits") == 3
    assert all(len(name) < 2000 for name, _ in statistics.lines())


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "|", ":", "\x00"])
def test_no_name_forges_a_line(end: str):
    """Whatever separates lines or their parts is one character of the name."""
    statistics = Statistics()
    statistics.count_unknown_domain(f"a{end}ratelimit.service.call", 1)
    statistics.of(f"shop{end}1")
    assert figure(statistics, "a_ratelimit.service.call.domain_not_found") == 1
    assert figure(statistics, "shop_1.total_hits") == 0
