"""Orders."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "orders_0001"
down_revision = None
branch_labels = ("orders",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7: sorts by creation"),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("price_minor", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("refunded_minor", sa.BigInteger),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("traceparent", sa.String(64), nullable=False, comment="where a restatement continues the trace"),
        sa.Column(
            "due_at",
            Timestamp,
            comment="when billing's answer is overdue; null when there is none to wait for",
        ),
        sa.Column("restated", sa.Integer, nullable=False, comment="how often billing was asked again"),
        sa.CheckConstraint("price_minor > 0", name="order_has_a_price"),
        sa.CheckConstraint("status in ('pending', 'confirmed', 'rejected', 'cancelled')", name="order_status"),
        sa.CheckConstraint("(status = 'rejected') = (reason is not null)", name="rejection_has_a_reason"),
    )
    op.create_index("orders_by_owner", "orders", ["user_id", "id"])
    op.create_index(
        "orders_due",
        "orders",
        ["due_at"],
        postgresql_where=sa.text("due_at is not null"),
        sqlite_where=sa.text("due_at is not null"),
    )
