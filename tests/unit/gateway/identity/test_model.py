import re
from datetime import timedelta
from pathlib import Path

import pytest

from chassis.errors import Forbidden, Invalid
from services import gateway
from services.gateway.identity import model
from services.gateway.identity.model import ApiKey, Principal, RefreshToken
from tests.support.clock import FakeClock

NOW = FakeClock().now()
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("address", ["a@example.com", "first.last+tag@sub.example.org", "jürgen@exämple.de"])
def test_addresses_of_any_script(address: str):
    """What looks like an address passes."""
    model.check_email(address)


@pytest.mark.parametrize("address", ["", "a", "a@", "@b.de", "a@b", "a b@c.de", "a@b..de", "a@-b.de", "a@b.de\n"])
def test_what_is_no_address(address: str):
    """What cannot be an address is refused."""
    with pytest.raises(Invalid):
        model.check_email(address)


@pytest.mark.parametrize(
    ("name", "scopes", "expires_at"),
    [
        ("", ("*",), None),
        ("x" * 101, ("*",), None),
        ("nul\0", ("*",), None),
        ("key", (), None),
        ("key", ("Chat",), None),
        ("key", ("chat",) * 33, None),
        ("key", ("chat", "tasks:read"), None),
        ("key", ("*",), NOW),
        ("key", ("*",), (NOW + SECOND).replace(tzinfo=None)),
    ],
)
def test_keys_that_may_not_be(name: str, scopes: tuple[str, ...], expires_at: object):
    """Names are printable, scopes are known, an expiry lies ahead."""
    with pytest.raises(Invalid):
        model.check_key(name, scopes, expires_at, NOW)  # type: ignore[arg-type]  # parametrized


def test_the_scopes_that_a_key_may_have_are_those_that_routes_ask_for():
    """And whoever asks for another is told them."""
    routes = "".join(path.read_text() for path in Path(gateway.__path__[0]).rglob("*.py"))
    asked_for = re.findall(r'(?:require_scope\([\w.]+, |\b_SCOPE = )"(\w+)"', routes)
    assert set(asked_for) | {"*"} == set(model.SCOPES)
    with pytest.raises(Invalid) as refused:
        model.check_key("key", ("chatt",), None, NOW)
    assert refused.value.details == {"field": "scopes", "known": ", ".join(model.SCOPES)}


def test_a_key_lives_until_its_end():
    """Revocation and expiry both end it."""
    key = ApiKey(id="k", user_id="u", name="n", prefix="amk_k", scopes=("*",), created_at=NOW, expires_at=NOW + SECOND)
    assert (key.is_alive(NOW), key.is_alive(NOW + SECOND)) == (True, False)


def test_a_refresh_token_lives_with_its_session():
    """Its own time and its session's end both end it."""
    token = RefreshToken(id="t", session_id="s", user_id="u", expires_at=NOW + SECOND)
    assert (token.is_alive(NOW), token.is_alive(NOW + SECOND)) == (True, False)
    ended = RefreshToken(id="t", session_id="s", user_id="u", expires_at=NOW + SECOND, session_revoked_at=NOW)
    assert not ended.is_alive(NOW)


def test_scopes_are_handed_on_not_made():
    """A narrow credential delegates at most what it has."""
    narrow = Principal(user_id="u", username="n", role="user", scopes=frozenset({"chat"}))
    model.check_delegation(narrow, ("chat",), None)
    with pytest.raises(Forbidden):
        model.check_delegation(narrow, ("*",), None)


def test_a_key_passes_its_end_on():
    """What an expiring key makes ends with it at the latest; other credentials choose freely."""
    ending = Principal(user_id="u", username="n", role="user", key_id="k", key_expires_at=NOW)
    model.check_delegation(ending, ("chat",), NOW)
    for longer in (None, NOW + SECOND):
        with pytest.raises(Forbidden):
            model.check_delegation(ending, ("chat",), longer)
    model.check_delegation(Principal(user_id="u", username="n", role="user"), ("*",), None)
