"""Outbox, dead letters and idempotency keys."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "messaging_0001"
down_revision = None
branch_labels = ("messaging",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7; also Nats-Msg-Id"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("published_at", Timestamp, comment="null until the stream has acknowledged it"),
        sa.Column("sequence", sa.BigInteger, comment="where the stream keeps it"),
    )
    op.create_index(
        "outbox_unpublished",
        "outbox",
        ["id"],
        postgresql_where=sa.text("published_at is null"),
        sqlite_where=sa.text("published_at is null"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("event_id", sa.Text, primary_key=True, comment="ce-id; stream/sequence when the message has none"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("trace_id", sa.String(32), nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("attended_at", Timestamp, comment="null until somebody replayed or discarded it"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.LargeBinary(32), primary_key=True, comment="hash of subject, route and key"),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False, comment="keyed hash of the request's body"),
        sa.Column("outcome", sa.Text, nullable=False, comment="JSON: the first result, or the refusal"),
        sa.Column("created_at", Timestamp, nullable=False),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
