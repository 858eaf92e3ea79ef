"""When leases were looked at last"""

from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        'CREATE TABLE tasks.lease_watch (one boolean PRIMARY KEY DEFAULT true CHECK (one), '
        'looked_at timestamptz NOT NULL)'
    )
    op.execute('INSERT INTO tasks.lease_watch (looked_at) VALUES (clock_timestamp())')


def downgrade() -> None:
    op.execute('DROP TABLE tasks.lease_watch')
