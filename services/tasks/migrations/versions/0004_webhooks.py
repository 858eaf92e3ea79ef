"""Webhooks and their deliveries"""

from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE tasks.webhook (
  webhook_id varchar(40) COLLATE "C" PRIMARY KEY,
  owner_id text NOT NULL,
  url text NOT NULL,
  events text[] NOT NULL,
  description text NOT NULL,
  enabled boolean NOT NULL,
  disabled_reason text NOT NULL DEFAULT '',
  secret text NOT NULL,
  old_secret text,
  old_until timestamptz,
  created_at timestamptz NOT NULL,
  last_delivered_at timestamptz,
  failing_since timestamptz,
  deleted_at timestamptz
) WITH (fillfactor=70);
CREATE INDEX ix_webhook_told ON tasks.webhook (owner_id) WHERE enabled;
CREATE INDEX ix_webhook_owner ON tasks.webhook (owner_id, webhook_id) WHERE deleted_at IS NULL;
CREATE TABLE tasks.webhook_delivery (
  delivery_id varchar(40) COLLATE "C" PRIMARY KEY,
  webhook_id varchar(40) COLLATE "C" NOT NULL,
  event_id text NOT NULL,
  type text NOT NULL,
  at timestamptz NOT NULL,
  facts jsonb,
  result bytea,
  payload bytea,
  traceparent text NOT NULL,
  state smallint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  due_at timestamptz DEFAULT clock_timestamp(),
  failures smallint NOT NULL DEFAULT 0,
  takes integer NOT NULL DEFAULT 0,
  taken boolean NOT NULL DEFAULT false,
  ended_at timestamptz,
  tries jsonb NOT NULL DEFAULT '[]'
) WITH (autovacuum_vacuum_scale_factor=0.05, autovacuum_vacuum_threshold=500, autovacuum_vacuum_cost_delay=0);
CREATE UNIQUE INDEX uq_webhook_delivery_event ON tasks.webhook_delivery (webhook_id, event_id);
CREATE INDEX ix_webhook_delivery_log ON tasks.webhook_delivery (webhook_id, delivery_id);
CREATE INDEX ix_webhook_delivery_due ON tasks.webhook_delivery (webhook_id, due_at) WHERE state = 1;
CREATE FUNCTION tasks.delivery_id() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT 'dlv_' || string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', digit + 1, 1), '' ORDER BY place)
  FROM (
    SELECT place, (ms >> (5 * (9 - place)) & 31)::int AS digit
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS m, generate_series(0, 9) AS place
    UNION ALL
    SELECT 10 + n, get_byte(bytes, n) & 31 FROM (SELECT uuid_send(gen_random_uuid()) AS bytes) AS u, generate_series(0, 15) AS n
  ) AS digits
$$
"""

_DOWN = """
DROP FUNCTION tasks.delivery_id;
DROP TABLE tasks.webhook_delivery;
DROP TABLE tasks.webhook
"""


def upgrade() -> None:
    for statement in _UP.split(';\n'):
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN.split(';\n'):
        op.execute(statement)
