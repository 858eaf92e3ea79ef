"""The tables of the schema ``tasks``: columns, constraints, indexes, and why each index is or is not there.

A task's life costs one insert into `task`, one insert, one update and one delete in `task_live`, and appends. What
never changes is apart from what does, so that the hot table stays as small as what is alive.
"""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "tasks"
metadata = MetaData(schema=SCHEMA)

# Ids begin with their time in a fixed width, so byte order is age; the C collation also makes comparing them cheap.
_ID = String(40, collation="C")
_TIME = TIMESTAMP(timezone=True)
# For tables whose rows come and go.
_CLEANED_OFTEN = {
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_threshold": "500",
    "autovacuum_vacuum_cost_delay": "0",
}

# These three are cut into days by the ids' time, so that history is dropped and not deleted: see `store.history`.
_BY_DAY = "RANGE (task_id)"

# Insert only.
task = Table(
    "task",
    metadata,
    Column("task_id", _ID, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("work_group", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("run_at", _TIME),
    Column("deadline_at", _TIME),
    Column("traceparent", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    # The tasks it runs after; null for most. `prerequisite` has the same, the other way round, while it waits.
    Column("run_after", ARRAY(Text)),
    Column("join_any", Boolean, nullable=False, server_default=text("false")),
    Column("unique_key", Text),
    Column("schedule_id", Text),
    # "My tasks, newest first" for every page of it.
    Index("ix_task_owner", "owner_id", text("task_id DESC")),
    postgresql_partition_by=_BY_DAY,
)

# Live tasks only. No index on `state`: it changes with every transition, and whoever looks for work in a state comes by
# another way (outbox, schedule, session). The fill factor leaves room for updates in place (progress, cancellation).
task_live = Table(
    "task_live",
    metadata,
    Column("task_id", _ID, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("work_group", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("lost", SmallInteger, nullable=False, server_default="0"),
    Column("sequence", Integer, nullable=False),
    Column("session_id", _ID),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("progress_at", _TIME),
    Column("enqueued_at", _TIME),
    Column("started_at", _TIME),
    Column("timeout_at", _TIME),
    Column("cancel_at", _TIME),
    # It waits for the tasks that it runs after.
    Column("waits", Boolean, nullable=False, server_default=text("false")),
    # Of owner, kind and unique key: while this row is there, there is no second one.
    Column("unique_digest", LargeBinary),
    Column("channel", Text),
    Column("partial", LargeBinary),
    # Others wait, or have waited, for its end.
    Column("awaited", Boolean, nullable=False, server_default=text("false")),
    # The session that said how the last attempt ended, while another one is due.
    Column("reported_by", _ID),
    Index("uq_task_live_digest", "unique_digest", unique=True, postgresql_where=text("unique_digest IS NOT NULL")),
    # What is to be stopped: looked at ten times a second, and nearly always empty.
    Index("ix_task_live_cancel", "session_id", postgresql_where=text("cancel_at IS NOT NULL")),
    # What a session holds: as many rows as are running, however long the queues are.
    Index("ix_task_live_session", "session_id", postgresql_where=text("session_id IS NOT NULL")),
    postgresql_with={"fillfactor": "60", **_CLEANED_OFTEN},
)

# At most one row a task: its end.
task_result = Table(
    "task_result",
    metadata,
    Column("task_id", _ID, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("progress", Double, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("started_at", _TIME),
    Column("finished_at", _TIME, nullable=False),
    Column("partial", LargeBinary),
    # The session that said so; null for an end that no worker reported.
    Column("reported_by", _ID),
    postgresql_partition_by=_BY_DAY,
)

# The feed but for what the task and its result say. Ordered, without gaps: numbers are taken under the live row's lock.
task_event = Table(
    "task_event",
    metadata,
    Column("task_id", _ID, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("data", LargeBinary, nullable=False),
    postgresql_partition_by=_BY_DAY,
)

# Timers. A row may outlive what it was for; then it finds nothing when it is due.
schedule = Table(
    "schedule",
    metadata,
    Column("due_at", _TIME, primary_key=True),
    Column("task_id", _ID, primary_key=True),
    # 1: queue it if it still waits after `attempt`; 2: its deadline; 3: a task it runs after has ended.
    Column("purpose", SmallInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
)

# Who waits for a task: found by the statement that ends it. Rows of tasks that wait no more are pruned.
prerequisite = Table(
    "prerequisite", metadata, Column("after_id", _ID, primary_key=True), Column("task_id", _ID, primary_key=True)
)

# Pointers that are not with the broker yet. The key's order is that in which they are looked for: few are published
# ahead, so that an owner's turn comes soon however many another has queued. Those of a kind with a bound wait in the
# lane of its name until they have a place; all others are in the lane "".
pointer = Table(
    "pointer",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("work_group", Text, primary_key=True),
    Column("priority", SmallInteger, primary_key=True),
    Column("owner_id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("task_id", _ID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    postgresql_with=_CLEANED_OFTEN,
)

# Pointers on the short way, a row for all of a commit: by it they are found when nobody is left to publish them.
direct = Table(
    "direct",
    metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("at", _TIME, nullable=False),
    Column("task_ids", ARRAY(Text), nullable=False),
    postgresql_with={"toast_tuple_target": "8160", **_CLEANED_OFTEN},
)

# The places of a kind with a bound: each belongs to one attempt from its pointer on, and is free when that is over.
kind_place = Table(
    "kind_place",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("task_id", _ID, primary_key=True),
    # The last attempt before the one that the place is for, as in the pointer.
    Column("attempt", Integer, nullable=False),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("task_id", _ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("error_code", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("at", _TIME, nullable=False),
)

# A fresh row for every process start and every lost lease. It outlives its lease until nothing live points at it.
worker_session = Table(
    "worker_session",
    metadata,
    Column("session_id", _ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("kinds", ARRAY(Text), nullable=False),
    Column("work_groups", ARRAY(Text), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("finished", BigInteger, nullable=False, server_default="0"),
    Column("opened_at", _TIME, nullable=False),
    Column("lease_until", _TIME, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("external", Boolean, nullable=False, server_default=text("false")),
    Column("beat_at", _TIME, nullable=False, server_default=text("now()")),
    Column("busy_seconds", Double, nullable=False, server_default="0"),
    # The stream that tells of its end; of two the newer.
    Column("watcher", Text),
    postgresql_with={"fillfactor": "50"},
)

# One row: when sessions were last looked at whose leases are over. While nobody looks nobody can prolong a lease either
# (the database or every process of this service is away), so the time of leases stands still.
lease_watch = Table(
    "lease_watch",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("looked_at", _TIME, nullable=False),
)

idem = Table(
    "idem",
    metadata,
    Column("owner_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("task_id", _ID, nullable=False),  # or a webhook's id
    Column("expires_at", _TIME, nullable=False),
    # What was answered first; null before that.
    Column("queue_position", BigInteger),
    Column("estimated_seconds", Double),
    Column("estimated_at", _TIME),
    Column("duplicate", Boolean),
    Index("ix_idem_expires", "expires_at"),
)

kind = Table(
    "kind",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("work_group", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("announced_at", _TIME, nullable=False),
    # How many may run at once; 0: no bound.
    Column("max_running", Integer, nullable=False, server_default="0"),
    Column("retry_base_seconds", Double, nullable=False, server_default="1"),
    Column("retry_factor", Double, nullable=False, server_default="2"),
    Column("retry_max_seconds", Double, nullable=False, server_default="300"),
    Column("retry_jitter", Double, nullable=False, server_default="0.5"),
)

# Figures, not promises: each process adds what it saw end in a second; old seconds are folded into the epoch's row.
tally = Table(
    "tally",
    metadata,
    Column("at", _TIME, primary_key=True),
    Column("work_group", Text, primary_key=True),
    Column("instance", Text, primary_key=True),
    Column("ended", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("busy_seconds", Double, nullable=False),
)

# As `tally`, by the channel that customers come through.
channel_tally = Table(
    "channel_tally",
    metadata,
    Column("at", _TIME, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("instance", Text, primary_key=True),
    Column("ended", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("response_seconds", Double, nullable=False),
    Column("last_at", _TIME, nullable=False),
)

cron_schedule = Table(
    "cron_schedule",
    metadata,
    Column("schedule_id", _ID, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("misfire", SmallInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
    # The task that it submits.
    Column("kind", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("unique_key", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    # Null while it is paused.
    Column("next_at", _TIME),
    Index("ix_cron_schedule_owner", "owner_id"),
    Index("ix_cron_schedule_next", "next_at", postgresql_where=text("next_at IS NOT NULL")),
)

# At most one task for a schedule and a time: whoever submits it takes this row first.
cron_fire = Table(
    "cron_fire",
    metadata,
    Column("schedule_id", _ID, primary_key=True),
    Column("fire_at", _TIME, primary_key=True),
    Column("task_id", _ID, nullable=False),
)

# The news that are not with the broker yet. A row tells what happened to all the tasks that one commit changed in the
# same way: the columns are arrays with an entry a task. Too short-lived to be compressed; whole as long as it fits.
news = Table(
    "news",
    metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("type", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("task_ids", ARRAY(Text), nullable=False),
    Column("owner_ids", ARRAY(Text), nullable=False),
    Column("sequences", ARRAY(Integer), nullable=False),
    Column("attempts", ARRAY(Integer), nullable=False),
    Column("ats", ARRAY(_TIME), nullable=False),
    Column("data", ARRAY(LargeBinary)),  # null: empty objects
    Column("results", ARRAY(LargeBinary)),  # null: none
    Column("labels", ARRAY(LargeBinary), nullable=False),
    Column("traceparents", ARRAY(Text), nullable=False),
    postgresql_with={"toast_tuple_target": "8160", **_CLEANED_OFTEN},
)

# Whoever ends a task looks for its owner's: hence the index, which is as small as there are webhooks. A deleted one
# stays, out of sight, until its log is gone.
webhook = Table(
    "webhook",
    metadata,
    Column("webhook_id", _ID, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),
    Column("description", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text, nullable=False, server_default=""),
    Column("secret", Text, nullable=False),
    Column("old_secret", Text),
    Column("old_until", _TIME),
    Column("created_at", _TIME, nullable=False),
    Column("last_delivered_at", _TIME),
    # The first try that failed since the last one that did not.
    Column("failing_since", _TIME),
    Column("deleted_at", _TIME),
    Index("ix_webhook_told", "owner_id", postgresql_where=text("enabled")),
    Index("ix_webhook_owner", "owner_id", "webhook_id", postgresql_where=text("deleted_at IS NULL")),
    postgresql_with={"fillfactor": "70"},
)

# One event for one webhook. Taking it for a try moves `due_at` past the time that the try may need: who dies over it
# is succeeded then, and `takes` tells the one from the other.
webhook_delivery = Table(
    "webhook_delivery",
    metadata,
    Column("delivery_id", _ID, primary_key=True),
    Column("webhook_id", _ID, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    # What the payload is made of when it is first needed; all of it, because history is dropped by the day.
    Column("facts", JSONB),
    Column("result", LargeBinary),
    Column("payload", LargeBinary),
    Column("traceparent", Text, nullable=False),
    Column("state", SmallInteger, nullable=False, server_default="1"),
    Column("created_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    # Set while it waits.
    Column("due_at", _TIME, server_default=text("clock_timestamp()")),
    Column("failures", SmallInteger, nullable=False, server_default="0"),
    Column("takes", Integer, nullable=False, server_default="0"),
    Column("taken", Boolean, nullable=False, server_default=text("false")),
    Column("ended_at", _TIME),
    Column("tries", JSONB, nullable=False, server_default=text("'[]'")),
    Index("uq_webhook_delivery_event", "webhook_id", "event_id", unique=True),
    Index("ix_webhook_delivery_log", "webhook_id", "delivery_id"),
    Index("ix_webhook_delivery_due", "webhook_id", "due_at", postgresql_where=text("state = 1")),
    postgresql_with=_CLEANED_OFTEN,
)
