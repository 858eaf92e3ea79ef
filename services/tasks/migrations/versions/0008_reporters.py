"""Who reported an end, so that a repetition is told apart from a stale report"""

from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ('task_live', 'task_result'):
        op.execute(f'ALTER TABLE tasks.{table} ADD COLUMN reported_by varchar(40) COLLATE "C"')


def downgrade() -> None:
    for table in ('task_live', 'task_result'):
        op.execute(f'ALTER TABLE tasks.{table} DROP COLUMN reported_by')
