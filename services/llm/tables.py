"""The service's tables, in the schema `llm`."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
)

metadata = MetaData(schema="llm")

# One row a request. Rows arrive in the order of `id`, which begins with the time.
usage = Table(
    "usage",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("api_key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("outcome", Text, nullable=False, comment="ok, cancelled or the code of the error"),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Index("usage_by_user", "user_id", "at"),
    # Everybody's usage since a time reads nearly whole days; a block range index costs the writer next to nothing.
    Index("usage_by_time", "at", postgresql_using="brin"),
)

# One row an idempotency key. `answer` is null while somebody works on it, and for no longer than `held_until`.
answers = Table(
    "answers",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False, comment="SHA-256 of the request"),
    Column("token", Uuid, nullable=False, comment="of the one who holds the key: who lost it has no say any more"),
    Column("answer", LargeBinary),
    Column("held_until", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("length(key) > 0", name="answers_key_given"),
    Index("answers_by_expiry", "expires_at"),
)
