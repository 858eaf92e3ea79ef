"""users, sessions and API keys"""

from alembic import op
import sqlalchemy as sa

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('credential_changes',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('subject', sa.Text(), nullable=False),
    sa.Column('transaction_id', sa.BigInteger(), server_default=sa.text('(pg_current_xact_id()::text)::bigint'), nullable=False),
    sa.Column('changed_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    schema='gateway'
    )
    op.create_index(op.f('ix_gateway_credential_changes_changed_at'), 'credential_changes', ['changed_at'], unique=False, schema='gateway')
    op.create_index(op.f('ix_gateway_credential_changes_transaction_id'), 'credential_changes', ['transaction_id'], unique=False, schema='gateway')
    op.create_table('users',
    sa.Column('id', sa.Uuid(as_uuid=False), nullable=False),
    sa.Column('username', sa.Text(), nullable=False),
    sa.Column('email', sa.Text(), nullable=False),
    sa.Column('password_hash', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('is_active', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('last_login', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id'),
    schema='gateway'
    )
    op.create_index('users_email_key', 'users', [sa.literal_column('lower(email)')], unique=True, schema='gateway', postgresql_where=sa.text("email != ''"))
    op.create_index('users_username_key', 'users', [sa.literal_column('lower(username)')], unique=True, schema='gateway')
    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('user_id', sa.Uuid(as_uuid=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('scopes', sa.ARRAY(sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['gateway.users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    schema='gateway'
    )
    op.create_index(op.f('ix_gateway_api_keys_user_id'), 'api_keys', ['user_id'], unique=False, schema='gateway')
    op.create_table('sessions',
    sa.Column('id', sa.Uuid(as_uuid=False), nullable=False),
    sa.Column('user_id', sa.Uuid(as_uuid=False), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['gateway.users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    schema='gateway'
    )
    op.create_index(op.f('ix_gateway_sessions_user_id'), 'sessions', ['user_id'], unique=False, schema='gateway')
    op.create_table('refresh_tokens',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('session_id', sa.Uuid(as_uuid=False), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['session_id'], ['gateway.sessions.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    schema='gateway'
    )
    op.create_index(op.f('ix_gateway_refresh_tokens_session_id'), 'refresh_tokens', ['session_id'], unique=False, schema='gateway')


def downgrade() -> None:
    op.drop_index(op.f('ix_gateway_refresh_tokens_session_id'), table_name='refresh_tokens', schema='gateway')
    op.drop_table('refresh_tokens', schema='gateway')
    op.drop_index(op.f('ix_gateway_sessions_user_id'), table_name='sessions', schema='gateway')
    op.drop_table('sessions', schema='gateway')
    op.drop_index(op.f('ix_gateway_api_keys_user_id'), table_name='api_keys', schema='gateway')
    op.drop_table('api_keys', schema='gateway')
    op.drop_index('users_username_key', table_name='users', schema='gateway')
    op.drop_index('users_email_key', table_name='users', schema='gateway', postgresql_where=sa.text("email != ''"))
    op.drop_table('users', schema='gateway')
    op.drop_index(op.f('ix_gateway_credential_changes_transaction_id'), table_name='credential_changes', schema='gateway')
    op.drop_index(op.f('ix_gateway_credential_changes_changed_at'), table_name='credential_changes', schema='gateway')
    op.drop_table('credential_changes', schema='gateway')
