"""Users."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "auth_0001"
down_revision = None
branch_labels = ("auth",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("login", sa.String(64), nullable=False, unique=True),
        sa.Column("password_hash", sa.Text, nullable=False, comment="argon2id, in PHC string format"),
        sa.Column("account_id", sa.Uuid, comment="null until billing has opened it"),
        sa.Column("registration", sa.Text, comment="the fact stated, to state it again; null once it is answered"),
        sa.Column("traceparent", sa.String(64), nullable=False, comment="where a restatement continues the trace"),
        sa.Column("due_at", Timestamp, comment="when billing's answer is overdue; null once it is there"),
        sa.Column("restated", sa.Integer, nullable=False, comment="how often billing was asked again"),
        sa.Column("created_at", Timestamp, nullable=False),
    )
    op.create_index(
        "users_due",
        "users",
        ["due_at"],
        postgresql_where=sa.text("due_at is not null"),
        sqlite_where=sa.text("due_at is not null"),
    )
