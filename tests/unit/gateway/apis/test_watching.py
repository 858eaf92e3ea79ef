"""Whether what stands may go on standing."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from chassis.errors import Unauthenticated, Unavailable
from services.gateway.apis.watching import watch_credential
from services.gateway.edge.context import KEY
from tests.unit.gateway.apis.world import ADMIN


class FakeIdentity:
    """Knows one credential."""

    def __init__(self) -> None:
        self.known: Any = ADMIN

    def recall(self, credential: str) -> None:
        del credential

    async def authenticate(self, credential: str) -> Any:
        assert credential == "token"
        if isinstance(self.known, Exception):
            raise self.known
        return self.known


async def test_what_was_opened_in_another_role_ends():
    """As with a credential that ended; while nobody can tell, it stays."""
    identity = FakeIdentity()
    headers = [(b"authorization", b"Bearer token")]
    scope = {"type": "http", "headers": headers, "query_string": b"", KEY: SimpleNamespace(principal=ADMIN)}
    still_allowed = watch_credential(identity, scope)  # type: ignore[arg-type]  # of identity what is asked
    outcomes = []
    for known in (ADMIN, Unavailable(), replace(ADMIN, role="user"), Unauthenticated()):
        identity.known = known
        outcomes.append(await still_allowed())
    assert outcomes == [True, True, False, False]
