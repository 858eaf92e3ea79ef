"""Migrations against a real Postgres."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from alembic.util import CommandError

from chassis import migrations
from chassis.config import Postgres

pytestmark = pytest.mark.postgres

_ENV = """
from sqlalchemy import Column, Integer, MetaData, Table
from chassis.migrations import run_env
metadata = MetaData(schema="sample")
Table("thing", metadata, Column("id", Integer, primary_key=True){extra})
run_env("sample", metadata)
"""
_STEP = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("thing", sa.Column("id", sa.Integer, primary_key=True), schema="sample")
def downgrade():
    op.drop_table("thing", schema="sample")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(_ENV.format(extra=""))
    (tmp_path / "versions" / "0001_thing.py").write_text(_STEP)
    monkeypatch.setattr(migrations, "find_folder", lambda _service: tmp_path)
    return tmp_path


async def _tables(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT schemaname || '.' || tablename FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    await connection.close()
    return sorted(row[0] for row in rows)


async def test_the_schema_and_its_version_table_are_its_own(folder: Path, database_url: str) -> None:
    """Everything lands in the service's schema; a second run changes nothing."""
    settings = Postgres(url=database_url)
    for _ in range(2):
        await asyncio.to_thread(migrations.upgrade, "sample", settings)
    assert await _tables(database_url) == ["sample.alembic_version", "sample.thing"]


async def test_other_schemas_are_not_looked_at(folder: Path, database_url: str) -> None:
    """A neighbour's table is no drift of ours; a column that has no step is."""
    settings = Postgres(url=database_url)
    await asyncio.to_thread(migrations.upgrade, "sample", settings)
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE SCHEMA neighbour; CREATE TABLE neighbour.theirs (id int)")
    await connection.close()
    await asyncio.to_thread(migrations.check, "sample", settings)
    (folder / "env.py").write_text(_ENV.format(extra=', Column("name", Integer)'))
    with pytest.raises(CommandError, match="New upgrade operations"):
        await asyncio.to_thread(migrations.check, "sample", settings)


async def test_one_process_migrates_at_a_time(folder: Path, database_url: str) -> None:
    """While another holds the lock nothing is made; when it lets go the steps run."""
    settings = Postgres(url=database_url)
    other = await asyncpg.connect(database_url)
    await other.execute("SELECT pg_advisory_lock($1)", migrations.lock_key("sample"))
    work = asyncio.create_task(asyncio.to_thread(migrations.upgrade, "sample", settings))
    while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        assert not work.done()
        await asyncio.sleep(0.01)
    assert await _tables(database_url) == []
    await other.close()
    await work
    assert await _tables(database_url) == ["sample.alembic_version", "sample.thing"]
