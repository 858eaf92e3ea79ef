"""What a request is called: its id and its trace, the caller's own where they are sane."""

import random

from chassis import telemetry

_SANE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
_LONGEST_REQUEST_ID = 128


def request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's ``X-Request-ID`` if it is up to 128 letters, digits and ``-_.:``, else a new ``req_<24 hex>``."""
    given = headers.get(b"x-request-id")
    if given and len(given) <= _LONGEST_REQUEST_ID and not given.translate(None, _SANE):
        return given.decode("ascii")
    return f"req_{random.getrandbits(96):024x}"


def traceparent(headers: dict[bytes, bytes]) -> str:
    """The caller's W3C context, or a fresh one."""
    return telemetry.accept_traceparent(headers.get(b"traceparent", b"").decode("latin-1"))
