"""Tasks, results and events by day"""

from datetime import UTC, datetime, timedelta

from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

_TABLES = {
    'task': 'task_id',
    'task_result': 'task_id',
    'task_event': 'task_id, sequence',
}
_DAYS_AHEAD = 7
_DIGITS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'


def _first_id(day: datetime) -> str:
    """The lowest id of a day: its milliseconds in ten digits to the base of 32, as in ULIDs, and then nothing."""
    left, digits = int(day.timestamp() * 1000), ''
    for _ in range(10):
        left, digit = divmod(left, 32)
        digits = _DIGITS[digit] + digits
    return f'task_{digits}'


def upgrade() -> None:
    op.execute('CREATE SCHEMA IF NOT EXISTS tasks_history')
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for table, key in _TABLES.items():
        # All there is becomes the first part, up to the end of today.
        op.execute(f'ALTER TABLE tasks.{table} SET SCHEMA tasks_history')
        op.execute(f'ALTER TABLE tasks_history.{table} RENAME TO {table}_before')
        op.execute(
            f'CREATE TABLE tasks.{table} (LIKE tasks_history.{table}_before INCLUDING DEFAULTS) '
            'PARTITION BY RANGE (task_id)'
        )
        op.execute(f'ALTER TABLE tasks.{table} ADD PRIMARY KEY ({key})')
        if table == 'task':
            op.execute('CREATE INDEX ix_task_owner ON tasks.task (owner_id, task_id DESC)')
        tomorrow = _first_id(today + timedelta(days=1))
        op.execute(
            f'ALTER TABLE tasks.{table} ATTACH PARTITION tasks_history.{table}_before '
            f"FOR VALUES FROM (MINVALUE) TO ('{tomorrow}')"
        )
        for number in range(1, _DAYS_AHEAD + 1):
            day = today + timedelta(days=number)
            op.execute(
                f'CREATE TABLE tasks_history.{table}_p{day:%Y%m%d} PARTITION OF tasks.{table} '
                f"FOR VALUES FROM ('{_first_id(day)}') TO ('{_first_id(day + timedelta(days=1))}')"
            )


def downgrade() -> None:
    for table, key in _TABLES.items():
        op.execute(f'CREATE TABLE tasks.{table}_whole (LIKE tasks.{table} INCLUDING DEFAULTS)')
        op.execute(f'INSERT INTO tasks.{table}_whole SELECT * FROM tasks.{table}')
        op.execute(f'DROP TABLE tasks.{table}')
        op.execute(f'ALTER TABLE tasks.{table}_whole RENAME TO {table}')
        op.execute(f'ALTER TABLE tasks.{table} ADD PRIMARY KEY ({key})')
    op.execute('CREATE INDEX ix_task_owner ON tasks.task (owner_id, task_id DESC)')
    op.execute('DROP SCHEMA tasks_history')
