"""The whole store: every port in one object, because all of it stands on one pool and one outbox."""

from chassis.database import Database
from services.tasks.store.deliveries import Deliveries
from services.tasks.store.delivery_log import DeliveryLog
from services.tasks.store.figures import Figures
from services.tasks.store.history import History
from services.tasks.store.outgoing import Outgoing, Wake
from services.tasks.store.pointers import Pointers
from services.tasks.store.reading import Reading
from services.tasks.store.requeueing import Requeueing
from services.tasks.store.schedules import Schedules
from services.tasks.store.sessions import Sessions
from services.tasks.store.sweeping import Sweeping
from services.tasks.store.webhooks import Webhooks
from services.tasks.store.working import Working

# For every connection to the days of history: Postgres 18 corrupts its memory and dies when a statement prunes
# partitions while it runs and finds, under a lock, that a row was changed meanwhile. See docs/decisions/0017.
PLANNER = {"enable_partition_pruning": "off"}

# For statements that every task passes. They are many and find everything by key, so their plans are made once, and by
# the indexes: made while a table is empty, a plan that reads all of it would still be used when there are 100,000 rows.
# A batch is looked up in each table at once, in the order of the index, and joined by hashing: row by row it would be
# looked up in each day of history. What needs a look for each row says so (LATERAL or EXISTS, with OFFSET 0). A batch
# fits into the memory of one hash with all its results: joined in parts, its rows are locked in another order than by
# their ids, and two batches wait for each other.
HOT_PLANNER = {
    **PLANNER,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_nestloop": "off",
    "work_mem": "32MB",
}


# The parts keep their doors to the database under names of their own: `_passing` and `_hot` are for what every task
# passes, `_outgoing` and `_database` for the rest.
class Store(
    Schedules,
    Reading,
    Requeueing,
    Sessions,
    Working,
    Sweeping,
    Pointers,
    History,
    Figures,
    Webhooks,
    Deliveries,
    DeliveryLog,
):
    """All the ports over Postgres.

    Args:
        database: the pool for everything else, opened with those in `PLANNER`.
        wake: told what a commit has left to do.
        keys_live_seconds: how long an idempotency key is remembered.
        hot: the pool for what every task passes, opened with the settings in `HOT_PLANNER`; None: the same.
    """

    def __init__(
        self,
        database: Database,
        wake: Wake,
        *,
        keys_live_seconds: float = 86_400,
        hot: Database | None = None,
    ) -> None:
        outgoing = Outgoing(database, wake)
        passing = Outgoing(hot or database, wake)
        Schedules.__init__(self, passing, keys_live_seconds)
        Requeueing.__init__(self, database, outgoing)
        Reading.__init__(self, database)
        Sessions.__init__(self, database, outgoing)
        Working.__init__(self, passing)
        Sweeping.__init__(self, database, outgoing)
        Pointers.__init__(self, hot or database)
        History.__init__(self, database)
        Figures.__init__(self, database)
        Webhooks.__init__(self, database, keys_live_seconds)
        Deliveries.__init__(self, database, outgoing)
        DeliveryLog.__init__(self, database, outgoing)
