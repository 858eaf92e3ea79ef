"""The one table errors → HTTP status, and the errors that only HTTP knows. Renders nothing: dialects do."""

from chassis import errors


class MethodNotAllowed(errors.Invalid):
    """The path exists, the method does not. ``details["allow"]`` lists those that do."""

    default_code = "METHOD_NOT_ALLOWED"
    default_message = "Method not allowed"


class PayloadTooLarge(errors.Invalid):
    """The body is larger than this gateway takes."""

    default_code = "PAYLOAD_TOO_LARGE"
    default_message = "Request body too large"


class UnsupportedMediaType(errors.Invalid):
    """The body is of a type the route does not read."""

    default_code = "UNSUPPORTED_MEDIA_TYPE"
    default_message = "Unsupported media type"


class OverLimit(errors.Exhausted):
    """The rate limit says no. Without a time to come back at, nobody can tell one."""


# Looked up along the class's ancestors, so the more special one wins.
_STATUS: dict[type, int] = {
    MethodNotAllowed: 405,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Exhausted: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.Internal: 500,
}


def status_of(error: errors.MeshError) -> int:
    """The HTTP status an error is answered with; a dialect may know better for a code of its own."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500
