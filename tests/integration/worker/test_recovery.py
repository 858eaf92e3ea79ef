"""Work goes on by itself after a restart of the broker or of the database: on every queue, at every consumer, soon."""

import asyncio
import signal
import time

import pytest

from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from tests.integration.worker.load import Load, prove_recovery

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.timeout(300)]

# Generous: a machine that runs tests beside is slow, and a consumer that is silent stays so for good.
_AGAIN_SECONDS = 60.0


def kill(rabbit: RabbitMQ) -> None:
    """Kills the broker and starts it."""
    rabbit.kill()
    rabbit.start()


def stop_at_once(postgres: Postgres) -> None:
    """Postgres' immediate shutdown: sessions are cut off, and the start recovers from the log."""
    postgres.child.signal(signal.SIGQUIT)
    assert postgres.child.wait(20), "Postgres did not stop"
    postgres.start()


async def test_work_flows_again_on_every_queue(load: Load, rabbit_server: RabbitMQ, postgres_server: Postgres) -> None:
    """The broker is killed, then the database stopped at once: afterwards both workers get tasks of every priority."""
    for restart in (lambda: kill(rabbit_server), lambda: stop_at_once(postgres_server)):
        await asyncio.to_thread(restart)
        await load.until_heard(time.time(), _AGAIN_SECONDS)


@pytest.mark.long
async def test_a_killed_broker_is_made_up_for(load: Load, rabbit_server: RabbitMQ) -> None:
    """Nine tenths of the rate within ten seconds."""
    await prove_recovery(load, lambda: kill(rabbit_server))


@pytest.mark.long
async def test_a_database_that_stopped_at_once_is_made_up_for(load: Load, postgres_server: Postgres) -> None:
    """The same of Postgres."""
    await prove_recovery(load, lambda: stop_at_once(postgres_server))
