"""The whole store: every port in one object, because all of it stands on one pool and one outbox."""

from chassis.database import Database
from services.tasks.store.figures import Figures
from services.tasks.store.history import History
from services.tasks.store.outgoing import Outgoing, Wake, Wording
from services.tasks.store.pointers import Pointers
from services.tasks.store.reading import Reading
from services.tasks.store.requeueing import Requeueing
from services.tasks.store.schedules import Schedules
from services.tasks.store.sessions import Sessions
from services.tasks.store.sweeping import Sweeping
from services.tasks.store.working import Working


class Store(Schedules, Reading, Requeueing, Sessions, Working, Sweeping, Pointers, History, Figures):
    """All the ports over Postgres.

    Args:
        wording: turns notices into messages.
        wake: told what a commit has left to do.
        keys_live_seconds: how long an idempotency key is remembered.
    """

    def __init__(self, database: Database, wording: Wording, wake: Wake, *, keys_live_seconds: float = 86_400) -> None:
        outgoing = Outgoing(database, wording, wake)
        Schedules.__init__(self, outgoing, keys_live_seconds)
        Requeueing.__init__(self, database, outgoing)
        Reading.__init__(self, database)
        Sessions.__init__(self, database, outgoing)
        Working.__init__(self, database, outgoing)
        Sweeping.__init__(self, database, outgoing)
        Pointers.__init__(self, database)
        History.__init__(self, database)
        Figures.__init__(self, database)
