"""The settings of webhooks: what is no network and no schedule ends the start with a sentence."""

import pytest
from mesh.tasks.v1 import webhooks_pb2
from pydantic import ValidationError

from services.tasks.config import Webhooks
from services.tasks.model.tries import SCHEDULE_SECONDS
from services.tasks.model.webhooks import DeliveryState


def test_nothing_inside_is_allowed_by_itself() -> None:
    """No network, no plain HTTP, and the schedule of the standard."""
    settings = Webhooks()
    assert (settings.networks, settings.allow_http) == ([], False)
    assert settings.bounds.policy.schedule_seconds == SCHEDULE_SECONDS


def test_networks_and_schedules_are_lists() -> None:
    """With or without spaces."""
    settings = Webhooks(allowed_networks="127.0.0.0/8, fd00::/8", schedule_seconds="0, 0.5,10")
    assert [str(one) for one in settings.networks] == ["127.0.0.0/8", "fd00::/8"]
    assert settings.bounds.policy.schedule_seconds == (0, 0.5, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_networks": "here"},
        {"allowed_networks": "127.0.0.1/8"},
        {"schedule_seconds": "soon"},
        {"schedule_seconds": ""},
        {"schedule_seconds": "0,-1"},
        {"schedule_seconds": "0,nan"},
        {"schedule_seconds": "0,inf"},
        {"timeout_seconds": 0},
        {"most_per_owner": 201},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """Before the process serves anybody."""
    with pytest.raises(ValidationError):
        Webhooks(**wrong)  # type: ignore[arg-type]  # that is the point


def test_states_of_deliveries_have_the_contract_numbers() -> None:
    """The model's numbers travel as they are."""
    assert {f"DELIVERY_STATE_{one.name}": one.value for one in DeliveryState} | {"DELIVERY_STATE_UNSPECIFIED": 0} == (
        dict(webhooks_pb2.DeliveryState.items())
    )
