"""The private stores of a test session: fresh for each test, and back after every kind of fault."""

import shutil
from pathlib import Path

import aio_pika
import asyncpg
import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from deploy.local.state import StateDir
from deploy.local.stores import postgres
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from deploy.local.stores.redis import Redis


@pytest.mark.postgres
@pytest.mark.parametrize("_again", [1, 2])
async def test_each_test_gets_an_empty_database(database_url: str, _again: int) -> None:
    """A table made by one test is not there in the next."""
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT to_regclass('left_behind')") is None
    await connection.execute("CREATE TABLE left_behind ()")
    await connection.close()


@pytest.mark.postgres
async def test_postgres_recovers_what_was_committed_before_a_crash(
    database_url: str, postgres_server: Postgres
) -> None:
    """A row committed before SIGKILL is there after the restart."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
    postgres_server.kill()
    connection.terminate()
    postgres_server.start()
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT seven FROM kept") == 7
    await connection.close()


@pytest.mark.postgres
async def test_postgres_has_pgvector(database_url: str) -> None:
    """The vector extension can be created."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE EXTENSION vector")
    assert await connection.fetchval("SELECT '[1,2]'::vector::text") == "[1,2]"
    await connection.close()


@pytest.mark.redis
@pytest.mark.parametrize("_again", [1, 2])
async def test_each_test_gets_an_empty_redis(redis_url: str, _again: int) -> None:
    """A key set by one test is not there in the next."""
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


@pytest.mark.redis
async def test_redis_comes_back_on_the_same_address(redis_url: str, redis_server: Redis) -> None:
    """A stopped Redis refuses, a started one answers at the address it had."""
    redis_server.stop()
    async with redis.asyncio.from_url(redis_url, retry=None) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()
    redis_server.start()
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.ping()


@pytest.mark.rabbit
@pytest.mark.parametrize("_again", [1, 2])
async def test_each_test_gets_an_empty_virtual_host(amqp_url: str, _again: int) -> None:
    """A queue declared by one test is not there in the next."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.get_queue("left-behind")
        channel = await connection.channel()
        await channel.declare_queue("left-behind", durable=True)


@pytest.mark.rabbit
async def test_rabbitmq_keeps_persistent_messages_over_a_crash(amqp_url: str, rabbit_server: RabbitMQ) -> None:
    """A confirmed persistent message survives SIGKILL and restart."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("kept", durable=True)
        message = aio_pika.Message(b"seven", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept")
    rabbit_server.kill()
    rabbit_server.start()
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        kept = await queue.get(no_ack=True)
        assert kept is not None
        assert kept.body == b"seven"


@pytest.mark.consul
def test_consul_elects_itself_leader(consul_url: str) -> None:
    """The agent serves under the address that is given out."""
    assert consul_url.startswith("http://127.0.0.1:")


@pytest.mark.postgres
def test_postgres_under_a_private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs and data below a directory that only its owner may enter, as in /root, are no obstacle."""
    home = tmp_path / "home"
    programs = postgres.binaries().parent
    wheel = programs.parent
    moved = home / wheel.name / programs.name
    shutil.copytree(programs, moved, symlinks=True)
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), home / f"{wheel.name}.libs")
    home.chmod(0o700)
    monkeypatch.setattr(postgres, "binaries", lambda: moved / "bin")
    state = StateDir(home / "state")
    server = Postgres(state, durable=False)
    try:
        server.start()
        assert server.child.pid
    finally:
        server.stop()
