"""What was answered first under an idempotency key"""

from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        'ALTER TABLE tasks.idem ADD queue_position bigint, ADD estimated_seconds double precision,'
        ' ADD estimated_at timestamptz, ADD duplicate boolean'
    )


def downgrade() -> None:
    op.execute(
        'ALTER TABLE tasks.idem DROP queue_position, DROP estimated_seconds, DROP estimated_at, DROP duplicate'
    )
