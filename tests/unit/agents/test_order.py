"""What a caller may want executed."""

from typing import Any

import pytest

from chassis.errors import Invalid
from services.agents.model.agent import Figures, Measured
from services.agents.model.order import Order, choose, make_order
from tests.unit.agents.fakes import agent


def _make(**given: Any) -> Order:
    plain: dict[str, Any] = {
        "owner_id": "u",
        "agent_ids": [],
        "parallel": True,
        "timeout_seconds": 0,
        "input_text": "",
        "idempotency_key": "",
    }
    return make_order(**(plain | given))


def test_defaults_and_repeated_agents():
    """No time means 300 s; an agent named twice takes part once, at its first place."""
    order = _make(agent_ids=["b", "a", "b"])
    assert (order.timeout_seconds, order.agent_ids) == (300, ("b", "a"))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"timeout_seconds": 86_401}, "timeout_seconds"),
        ({"input_text": "a\x00"}, "input"),
        ({"input_text": "x" * 100_001}, "input"),
        ({"agent_ids": [str(number) for number in range(1001)]}, "agent_ids"),
    ],
)
def test_what_is_out_of_bounds_is_named(given: dict[str, Any], field: str):
    """The error says which field."""
    with pytest.raises(Invalid) as refused:
        _make(**given)
    assert refused.value.details["field"] == field


def test_agents_keep_the_order_of_the_request():
    """However the store found them; none at all is an error."""
    found = [Measured(agent=agent(name), figures=Figures()) for name in ("a", "b")]
    assert [one.agent.id for one in choose(_make(agent_ids=["b", "a"]), found)] == ["b", "a"]
    with pytest.raises(Invalid) as refused:
        choose(_make(), [])
    assert refused.value.code == "NO_ACTIVE_AGENTS"


def test_fingerprints_differ_where_requests_do():
    """The key and the owner are not part of it; everything else is."""
    assert _make(idempotency_key="k").fingerprint == _make().fingerprint
    for given in ({"parallel": False}, {"timeout_seconds": 5}, {"input_text": "x"}, {"agent_ids": ["a"]}):
        assert _make(**given).fingerprint != _make().fingerprint
