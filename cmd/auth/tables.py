"""Auth's table."""

from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text, Uuid

from libs.storage import Timestamp

METADATA = MetaData()

users = Table(
    "users",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("login", String(64), nullable=False, unique=True),
    Column("password_hash", Text, nullable=False, comment="argon2id, in PHC string format"),
    Column("account_id", Uuid, comment="null until billing has opened it"),
    Column("registration", Text, comment="the fact stated, to state it again; null once it is answered"),
    Column("traceparent", String(64), nullable=False, comment="where a restatement continues the trace"),
    Column("due_at", Timestamp, comment="when billing's answer is overdue; null once it is there"),
    Column("restated", Integer, nullable=False, comment="how often billing was asked again"),
    Column("created_at", Timestamp, nullable=False),
)
Index(
    "users_due",
    users.c.due_at,
    postgresql_where=users.c.due_at.is_not(None),
    sqlite_where=users.c.due_at.is_not(None),
)
