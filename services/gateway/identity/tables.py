"""Identity at rest: schema `gateway`."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)

SCHEMA = "gateway"
metadata = MetaData(schema=SCHEMA)

_MOMENT = DateTime(timezone=True)
_ID = Uuid(as_uuid=False)

users = Table(
    "users",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("username", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("last_login", _MOMENT),
)
# Names are kept as written and compared without case.
USERNAME_KEY = Index("users_username_key", func.lower(users.c.username), unique=True)
EMAIL_KEY = Index("users_email_key", func.lower(users.c.email), unique=True, postgresql_where=users.c.email != "")

sessions = Table(
    "sessions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", _MOMENT, nullable=False),
    Column("revoked_at", _MOMENT),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", ForeignKey(sessions.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False),
    Column("expires_at", _MOMENT, nullable=False),
    Column("used_at", _MOMENT),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    Column("revoked_at", _MOMENT),
)

# What every replica drops from its memory. The number of the writing transaction, compared with the oldest one still
# open, finds every row that was committed since the last look, which a sequence cannot: it is drawn before the commit.
credential_changes = Table(
    "credential_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("subject", Text, nullable=False),
    Column(
        "transaction_id",
        BigInteger,
        nullable=False,
        server_default=text("(pg_current_xact_id()::text)::bigint"),
        index=True,
    ),
    Column("changed_at", _MOMENT, nullable=False, server_default=func.now(), index=True),
)
