"""Clients of the shared mesh."""

from collections.abc import AsyncIterator

import pytest

from tests.support.client import Client, client
from tests.support.mesh import Mesh


@pytest.fixture
async def user(mesh: Mesh) -> AsyncIterator[Client]:
    """A new user."""
    async with client(mesh.url) as made:
        # What the test before has harmed may not be whole again; a client that is told when to come back does so.
        await made.sign_up(within_seconds=60)
        yield made


@pytest.fixture
async def admin(mesh: Mesh) -> AsyncIterator[Client]:
    """The administrator."""
    async with client(mesh.url) as made:
        await made.login(mesh.env["ADMIN_USERNAME"], mesh.env["ADMIN_PASSWORD"])
        yield made
