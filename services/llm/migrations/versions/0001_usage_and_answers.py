"""Usage of each request, and answers kept under idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False, comment="ok, cancelled or the code of the error"),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        schema="llm",
    )
    op.create_index("usage_by_user", "usage", ["user_id", "at"], schema="llm")
    op.create_index("usage_by_time", "usage", ["at"], schema="llm", postgresql_using="brin")
    op.create_table(
        "answers",
        sa.Column("owner", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False, comment="SHA-256 of the request"),
        sa.Column(
            "token",
            sa.Uuid(),
            nullable=False,
            comment="of the one who holds the key: who lost it has no say any more",
        ),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(key) > 0", name="answers_key_given"),
        schema="llm",
    )
    op.create_index("answers_by_expiry", "answers", ["expires_at"], schema="llm")


def downgrade() -> None:
    op.drop_table("answers", schema="llm")
    op.drop_table("usage", schema="llm")
