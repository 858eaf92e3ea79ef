"""Schedules of conversations pause: when one takes tokens, nobody is there to be refused"""

from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE tasks.cron_schedule SET paused = true, next_at = NULL WHERE kind IN ('llm.chat', 'llm.batch')"
    )


def downgrade() -> None:
    # Which of them their owners had paused is not known any more; each is resumed by a word.
    pass
