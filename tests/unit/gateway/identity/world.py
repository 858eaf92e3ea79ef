"""Identity on memory: everything a test of its operations touches."""

from typing import Any

from services.gateway.identity.cache import Invalidation, VerifiedCredentials
from services.gateway.identity.operations import Identity, Ports
from services.gateway.identity.tokens import JwtSignatures
from tests.support.clock import FakeClock
from tests.unit.gateway.identity.memory import (
    Memory,
    MemoryChanges,
    MemoryKeys,
    MemorySessions,
    MemoryUsers,
    PlainPasswords,
)

SECRET = "0123456789abcdef0123456789abcdef"
PASSWORD = "correct horse"


def signatures(secret: str = SECRET, **options: str) -> JwtSignatures:
    """What the world signs with, unless told otherwise."""
    names = {"issuer": "agentmesh", "audience": "agentmesh"} | options
    return JwtSignatures(secret, names.pop("algorithm", "HS256"), lifetime_seconds=1800, **names)


class World:
    """One replica of identity. Give several the same `memory` for several replicas."""

    def __init__(self, clock: FakeClock | None = None, memory: Memory | None = None) -> None:
        self.clock = clock or FakeClock()
        self.memory = memory or Memory()
        self.passwords = PlainPasswords()
        self.cache = VerifiedCredentials(self.clock, capacity=3)
        self.invalidation = Invalidation(MemoryChanges(self.memory), self.cache, self.clock)
        self.ports = Ports(
            users=MemoryUsers(self.memory),
            sessions=MemorySessions(self.memory),
            api_keys=MemoryKeys(self.memory),
            passwords=self.passwords,
            signatures=signatures(),
        )
        self.identity = Identity(self.ports, self.cache, self.clock, access_seconds=1800, refresh_seconds=86400)

    async def user(self, username: str = "john_doe") -> str:
        """A registered user's id."""
        email = f"{username}@example.com"
        return (await self.identity.register(username=username, email=email, password=PASSWORD)).id

    async def token(self, username: str = "john_doe") -> str:
        """A fresh access token of a registered user."""
        return (await self.identity.login(username=username, password=PASSWORD)).access_token

    async def key(self, username: str = "john_doe", **options: Any) -> str:
        """A fresh API key of a registered user."""
        principal = await self.identity.authenticate(await self.token(username))
        return (await self.identity.create_key(principal, name="laptop", **options)).plaintext
