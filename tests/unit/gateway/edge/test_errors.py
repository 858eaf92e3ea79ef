import pytest

from chassis import errors
from services.gateway.edge.errors import MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType, status_of
from services.gateway.identity.model import UsernameTaken


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Invalid(), 400),
        (errors.Unauthenticated(), 401),
        (errors.Forbidden(), 403),
        (errors.NotFound(), 404),
        (MethodNotAllowed(), 405),
        (UsernameTaken(), 409),
        (PayloadTooLarge(), 413),
        (UnsupportedMediaType(), 415),
        (errors.Exhausted(), 429),
        (errors.Internal(), 500),
        (errors.MeshError(), 500),
        (errors.Unavailable(), 503),
        (errors.DeadlineExceeded(), 504),
    ],
)
def test_every_error_has_a_status(error: errors.MeshError, status: int):
    """A special error has its own status, a domain's error that of what it is."""
    assert status_of(error) == status
