"""Tasks, live rows, results, events, timers and sessions"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('dead_letter',
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=False),
    sa.Column('error_message', sa.Text(), nullable=False),
    sa.Column('at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('task_id', 'attempt'),
    schema='tasks'
    )
    op.create_table('idem',
    sa.Column('owner_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('fingerprint', sa.LargeBinary(), nullable=False),
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('expires_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('owner_id', 'key'),
    schema='tasks'
    )
    op.create_index('ix_idem_expires', 'idem', ['expires_at'], unique=False, schema='tasks')
    op.create_table('kind',
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('work_group', sa.Text(), nullable=False),
    sa.Column('max_attempts', sa.Integer(), nullable=False),
    sa.Column('timeout_seconds', sa.Integer(), nullable=False),
    sa.Column('announced_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('kind'),
    schema='tasks'
    )
    op.create_table('outbox',
    sa.Column('seq', sa.BigInteger(), autoincrement=True, nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('exchange', sa.Text(), nullable=False),
    sa.Column('routing_key', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.Column('subject', sa.Text(), server_default='', nullable=False),
    sa.Column('sequence', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('time', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('traceparent', sa.Text(), server_default='', nullable=False),
    sa.Column('headers', postgresql.JSONB(astext_type=sa.Text()), server_default='{}', nullable=False),
    sa.PrimaryKeyConstraint('seq'),
    schema='tasks'
    )
    op.create_table('outbox_events',
    sa.Column('seq', sa.BigInteger(), autoincrement=True, nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('exchange', sa.Text(), nullable=False),
    sa.Column('routing_key', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.Column('subject', sa.Text(), server_default='', nullable=False),
    sa.Column('sequence', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('time', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('traceparent', sa.Text(), server_default='', nullable=False),
    sa.Column('headers', postgresql.JSONB(astext_type=sa.Text()), server_default='{}', nullable=False),
    sa.PrimaryKeyConstraint('seq'),
    schema='tasks'
    )
    op.create_table('schedule',
    sa.Column('due_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('purpose', sa.SmallInteger(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('due_at', 'task_id', 'purpose'),
    schema='tasks'
    )
    op.create_table('tally',
    sa.Column('at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('work_group', sa.Text(), nullable=False),
    sa.Column('instance', sa.Text(), nullable=False),
    sa.Column('ended', sa.BigInteger(), nullable=False),
    sa.Column('failed', sa.BigInteger(), nullable=False),
    sa.Column('busy_seconds', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('at', 'work_group', 'instance'),
    schema='tasks'
    )
    op.create_table('task',
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('owner_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('work_group', sa.Text(), nullable=False),
    sa.Column('priority', sa.SmallInteger(), nullable=False),
    sa.Column('payload', sa.LargeBinary(), nullable=False),
    sa.Column('labels', sa.LargeBinary(), nullable=False),
    sa.Column('max_attempts', sa.Integer(), nullable=False),
    sa.Column('timeout_seconds', sa.Integer(), nullable=False),
    sa.Column('run_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('deadline_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('traceparent', sa.Text(), nullable=False),
    sa.Column('created_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('task_id'),
    schema='tasks'
    )
    op.create_index('ix_task_owner', 'task', ['owner_id', sa.literal_column('task_id DESC')], unique=False, schema='tasks')
    op.create_table('task_event',
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('sequence', sa.Integer(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('data', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('task_id', 'sequence'),
    schema='tasks'
    )
    op.create_table('task_live',
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('state', sa.SmallInteger(), nullable=False),
    sa.Column('work_group', sa.Text(), nullable=False),
    sa.Column('priority', sa.SmallInteger(), nullable=False),
    sa.Column('attempt', sa.Integer(), server_default='0', nullable=False),
    sa.Column('max_attempts', sa.Integer(), nullable=False),
    sa.Column('lost', sa.SmallInteger(), server_default='0', nullable=False),
    sa.Column('sequence', sa.Integer(), nullable=False),
    sa.Column('session_id', sa.String(length=40, collation='C'), nullable=True),
    sa.Column('progress', sa.Double(), server_default='0', nullable=False),
    sa.Column('progress_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('enqueued_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('started_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('timeout_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('cancel_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('task_id'),
    schema='tasks',
    postgresql_with={'fillfactor': '60', 'autovacuum_vacuum_scale_factor': '0.05', 'autovacuum_vacuum_threshold': '500', 'autovacuum_vacuum_cost_delay': '0'}
    )
    op.create_index('ix_task_live_session', 'task_live', ['session_id'], unique=False, schema='tasks', postgresql_where=sa.text('session_id IS NOT NULL'))
    op.create_table('task_result',
    sa.Column('task_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('state', sa.SmallInteger(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('max_attempts', sa.Integer(), nullable=False),
    sa.Column('progress', sa.Double(), nullable=False),
    sa.Column('result', sa.LargeBinary(), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('error_message', sa.Text(), nullable=True),
    sa.Column('started_at', sa.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('finished_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('task_id'),
    schema='tasks'
    )
    op.create_table('worker_session',
    sa.Column('session_id', sa.String(length=40, collation='C'), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('host', sa.Text(), nullable=False),
    sa.Column('kinds', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('work_groups', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('slots', sa.Integer(), nullable=False),
    sa.Column('finished', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('opened_at', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('lease_until', sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('draining', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.PrimaryKeyConstraint('session_id'),
    schema='tasks',
    postgresql_with={'fillfactor': '50'}
    )
    # Known before any worker has announced them, so that a mesh that has just started accepts them.
    op.execute("""
        INSERT INTO tasks.kind (kind, work_group, max_attempts, timeout_seconds, announced_at) VALUES
        ('sentiment_analysis', 'builtin', 3, 60, now()),
        ('automation', 'builtin', 3, 300, now()),
        ('agent.run', 'agents', 3, 600, now())
    """)


def downgrade() -> None:
    op.drop_table('worker_session', schema='tasks')
    op.drop_table('task_result', schema='tasks')
    op.drop_index('ix_task_live_session', table_name='task_live', schema='tasks', postgresql_where=sa.text('session_id IS NOT NULL'))
    op.drop_table('task_live', schema='tasks')
    op.drop_table('task_event', schema='tasks')
    op.drop_index('ix_task_owner', table_name='task', schema='tasks')
    op.drop_table('task', schema='tasks')
    op.drop_table('tally', schema='tasks')
    op.drop_table('schedule', schema='tasks')
    op.drop_table('outbox_events', schema='tasks')
    op.drop_table('outbox', schema='tasks')
    op.drop_table('kind', schema='tasks')
    op.drop_index('ix_idem_expires', table_name='idem', schema='tasks')
    op.drop_table('idem', schema='tasks')
    op.drop_table('dead_letter', schema='tasks')
