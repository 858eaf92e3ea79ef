import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest

from services.gateway.identity.model import BadCredential
from tests.support.clock import FakeClock
from tests.unit.gateway.identity.world import SECRET, signatures

USER, SESSION = "01a1fdbc-f20f-7767-9e67-22be7fe2f0a6", "01a1fdbc-f348-7112-b42c-7ae87334afc2"
NOW = FakeClock().now()


def forged(secret: str = SECRET, algorithm: str = "HS256", typ: str | None = "at+jwt", **changes: Any) -> str:
    """A token that is right but for the changes; None removes a claim."""
    claims = {
        "iss": "agentmesh",
        "aud": "agentmesh",
        "sub": USER,
        "sid": SESSION,
        "jti": "1",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + timedelta(minutes=30),
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm, headers={"typ": typ} if typ else None)


def unsigned(header: dict[str, str]) -> str:
    """A token with the given header and no signature."""
    payload = forged().split(".")[1]
    encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{encoded}.{payload}."


def test_what_we_issue_we_read():
    """User, session and expiry come back as they went in."""
    claims = signatures().read(signatures().issue(USER, SESSION, NOW), NOW)
    assert (claims.user_id, claims.session_id) == (USER, SESSION)
    assert claims.expires_at == NOW + timedelta(seconds=1800)


def test_a_token_made_by_hand_is_read():
    """The zoo below fails for its differences, not for its make."""
    assert signatures().read(forged(), NOW).user_id == USER


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(forged(exp=NOW), id="expired"),
        pytest.param(forged(nbf=NOW + timedelta(minutes=5)), id="not yet valid"),
        pytest.param(forged(aud="somebody else"), id="wrong audience"),
        pytest.param(forged(iss="somebody else"), id="wrong issuer"),
        pytest.param(forged(secret="f" * 32), id="other key"),
        pytest.param(forged(algorithm="HS384", secret=SECRET * 2), id="other algorithm and key"),
        pytest.param(forged(algorithm="HS512", secret=SECRET * 2), id="other algorithm"),
        pytest.param(forged(typ="JWT"), id="not an access token"),
        pytest.param(forged(typ=None), id="no type"),
        pytest.param(unsigned({"alg": "none", "typ": "at+jwt"}), id="alg none"),
        pytest.param(unsigned({"alg": "NoNe", "typ": "at+jwt"}), id="alg NoNe"),
        pytest.param(unsigned({"alg": "HS256", "typ": "at+jwt"}), id="no signature"),
        pytest.param(forged()[:-5], id="truncated"),
        pytest.param(forged().rsplit(".", 1)[0], id="signature cut off"),
        pytest.param("..", id="empty parts"),
        pytest.param("a.b.c", id="no base64"),
        pytest.param("", id="empty"),
        pytest.param("\u20ac.\u20ac.\u20ac", id="not ASCII"),
        pytest.param("a" * 10_000, id="too long"),
        pytest.param(forged(sid=None), id="no session"),
        pytest.param(forged(jti=None), id="no id"),
        pytest.param(forged(exp=None), id="no end"),
        pytest.param(forged(exp=10**12), id="end beyond all dates"),
        pytest.param(forged(exp=10**30), id="end beyond all numbers"),
        pytest.param(forged(sid=7), id="session of a wrong type"),
        pytest.param(forged(sid="\0"), id="session that is no id"),
        pytest.param(forged(sub="ann"), id="user that is no id"),
    ],
)
def test_the_zoo_is_refused(token: str):
    """Every kind of bad token is the same public error."""
    with pytest.raises(BadCredential):
        signatures().read(token, NOW)


def test_an_expired_token_says_so():
    """A client may know that its own token is over."""
    token = signatures().issue(USER, SESSION, NOW)
    with pytest.raises(BadCredential, match="Token has expired"):
        signatures().read(token, NOW + timedelta(seconds=1800))
