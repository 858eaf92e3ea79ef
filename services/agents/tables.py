"""Tables of the schema `agents`."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

from chassis.messaging.outbox import outbox_table

SCHEMA = "agents"

metadata = MetaData(schema=SCHEMA)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("status", Text, CheckConstraint("status IN ('active', 'inactive')", name="agents_status"), nullable=False),
    Column("capabilities", ARRAY(Text), nullable=False),
    Column("model", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
Index("agents_by_age", agents.c.created_at, agents.c.id)

# What the finished runs of an agent add up to, kept in the commit that ends a run, so that reading it stays cheap.
# Without a foreign key: the figures of removed agents still count.
figures = Table(
    "figures",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("runs", BigInteger, nullable=False),
    Column("successful_runs", BigInteger, nullable=False),
    Column("successful_ms", BigInteger, nullable=False),
    Column("last_run_at", DateTime(timezone=True)),
)

executions = Table(
    "executions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("agent_ids", ARRAY(Text), nullable=False),
    Column("parallel", Boolean, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("input", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True)),
    Column("cancelled_at", DateTime(timezone=True)),
    Column("estimated_seconds", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("traceparent", Text, nullable=False),
)
Index(
    "executions_by_key",
    executions.c.owner_id,
    executions.c.idempotency_key,
    unique=True,
    postgresql_where=text("idempotency_key <> ''"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("execution_id", Text, ForeignKey(executions.c.id, ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    # The owner again, so that a user's log is one index scan.
    Column("owner_id", Text, nullable=False),
    # No foreign key: the log outlives its agents.
    Column("agent_id", Text, nullable=False),
    Column("agent_name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("deadline_at", DateTime(timezone=True)),
    Column("task_id", Text, nullable=False),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("output", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    # When something was last heard of it, or the repair last looked.
    Column("checked_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
)
Index("runs_by_execution", runs.c.execution_id, runs.c.position, unique=True)
Index("runs_by_age", runs.c.created_at.desc(), runs.c.id.desc())
Index("runs_by_owner", runs.c.owner_id, runs.c.created_at.desc(), runs.c.id.desc())
Index("runs_by_agent", runs.c.agent_id, runs.c.created_at.desc(), runs.c.id.desc())
Index("runs_under_way", runs.c.checked_at, postgresql_where=text("status IN ('pending', 'running')"))

runners = Table(
    "runners",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("port", Integer, nullable=False),
    Column("lease_until", DateTime(timezone=True), nullable=False),
)

outbox = outbox_table(metadata)
# What owners are to be told by webhook. Of its own, because the tasks service takes it and not the broker.
owner_outbox = outbox_table(metadata, "owner_outbox")
