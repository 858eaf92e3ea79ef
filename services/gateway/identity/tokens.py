"""Access tokens: signed, short-lived, RFC 9068 in form and RFC 8725 in care. Knows no user and no store."""

from datetime import datetime, timedelta

import jwt

from services.gateway.identity import keys
from services.gateway.identity.model import BadCredential
from services.gateway.identity.ports import Claims

ALGORITHMS = {"HS256": 32, "HS384": 48, "HS512": 64}
"""What may sign, and the least bytes its secret has (RFC 7518 §3.2)."""

_TYPE = "at+jwt"
_REQUIRED = ["iss", "aud", "exp", "nbf", "iat", "jti", "sub", "sid"]
# Replicas' clocks differ a little; a token must not be refused by the next one because it is too young.
_LEEWAY_SECONDS = 5.0
_LONGEST_TOKEN = 4096
# Later than any clock of ours can say (the year 9999); beyond it, dates overflow.
_LAST_MOMENT = 253_402_300_800


class JwtSignatures:
    """Issues and reads access tokens with one shared secret."""

    def __init__(self, secret: str, algorithm: str, *, issuer: str, audience: str, lifetime_seconds: int) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience
        self._lifetime_seconds = lifetime_seconds

    def issue(self, user_id: str, session_id: str, now: datetime) -> str:
        """A token for a user's session, good from `now` for its lifetime."""
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user_id,
            "sid": session_id,
            "jti": keys.new_uuid(),
            "iat": now,
            "nbf": now,
            "exp": now + timedelta(seconds=self._lifetime_seconds),
        }
        return jwt.encode(claims, self._secret, algorithm=self._algorithm, headers={"typ": _TYPE})

    def read(self, token: str, now: datetime) -> Claims:
        """What a token of ours says. Raises BadCredential; why, only the log learns."""
        if len(token) > _LONGEST_TOKEN:
            raise BadCredential(private="token too long")
        try:
            # The configured algorithm alone is allowed, whatever the header says: `none` and all confusion end here.
            decoded = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # The time claims are judged below, by the injected clock.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise BadCredential(private=f"access token: {type(error).__name__}: {error}") from None
        return _judge(decoded["header"], decoded["payload"], now)


def _judge(header: dict[str, object], payload: dict[str, object], now: datetime) -> Claims:
    # Another token of ours (an id token, say) signed with the same secret must not pass as an access token.
    if str(header.get("typ", "")).lower() != _TYPE:
        raise BadCredential(private="not an access token")
    subject, session = payload["sub"], payload["sid"]
    expires, begins = payload["exp"], payload["nbf"]
    if not (isinstance(expires, int) and isinstance(begins, int) and isinstance(session, str)):
        raise BadCredential(private="claims of a wrong type")
    if not (keys.is_uuid(str(subject)) and keys.is_uuid(session)):
        raise BadCredential(private="claims that name nobody")
    if expires >= _LAST_MOMENT:
        raise BadCredential(private="a token without an end")
    timestamp = now.timestamp()
    if timestamp >= expires or timestamp < begins - _LEEWAY_SECONDS:
        raise BadCredential("Token has expired" if timestamp >= expires else "", private="outside its time")
    return Claims(user_id=str(subject), session_id=session, expires_at=now + timedelta(seconds=expires - timestamp))
