"""Orders' table."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
)

from libs.storage import Timestamp

METADATA = MetaData()

orders = Table(
    "orders",
    METADATA,
    Column("id", Uuid, primary_key=True, comment="UUIDv7: sorts by creation"),
    Column("user_id", Uuid, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("description", Text),
    Column("status", String(16), nullable=False),
    Column("reason", String(32)),
    Column("refunded_minor", BigInteger),
    Column("created_at", Timestamp, nullable=False),
    Column("traceparent", String(64), nullable=False, comment="where a restatement continues the trace"),
    Column("due_at", Timestamp, comment="when billing's answer is overdue; null when there is none to wait for"),
    Column("restated", Integer, nullable=False, comment="how often billing was asked again"),
    CheckConstraint("price_minor > 0", name="order_has_a_price"),
    CheckConstraint("status in ('pending', 'confirmed', 'rejected', 'cancelled')", name="order_status"),
    CheckConstraint("(status = 'rejected') = (reason is not null)", name="rejection_has_a_reason"),
)
Index("orders_by_owner", orders.c.user_id, orders.c.id)
Index(
    "orders_due",
    orders.c.due_at,
    postgresql_where=orders.c.due_at.is_not(None),
    sqlite_where=orders.c.due_at.is_not(None),
)
