"""Dead letters get an id of their own, since two messages may carry one event id; and acts: who attended to which."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "messaging_0003"
down_revision = "messaging_0002"
branch_labels = None
depends_on = None

AT_ONCE = 100


def upgrade() -> None:
    op.rename_table("dead_letters", "dead_letters_before")
    if op.get_bind().dialect.name == "postgresql":  # else the new table's key could not have its name
        op.execute("alter table dead_letters_before drop constraint dead_letters_pkey")
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.String(32), primary_key=True, comment="hash of service, event id, subject and payload"),
        sa.Column("event_id", sa.Text, nullable=False, comment="ce-id; stream/sequence when the message has none"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("trace_id", sa.String(32), nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("attended_at", Timestamp, comment="null until somebody replayed or discarded it"),
    )
    op.create_index("dead_letters_attended", "dead_letters", ["attended_at"])
    _copy()
    op.drop_table("dead_letters_before")
    op.create_table(
        "dead_letter_acts",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("dead_letter", sa.String(32), sa.ForeignKey("dead_letters.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", Timestamp, nullable=False),
        sa.Column("by", sa.Text, nullable=False, comment="who did it"),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("note", sa.Text, comment="the reason of a discard, the error of a replay that failed"),
        sa.CheckConstraint("what in ('replayed', 'replay_failed', 'discarded')", name="dead_letter_act"),
    )
    op.create_index("ix_dead_letter_acts_dead_letter", "dead_letter_acts", ["dead_letter"])


def _copy() -> None:
    """Move what is there, a step at a time; no migration knows its service, so the ids are random."""
    connection = op.get_bind()
    columns = [
        sa.column(name, kind)
        for name, kind in (
            ("event_id", sa.Text),
            ("subject", sa.Text),
            ("payload", sa.LargeBinary),
            ("headers", sa.Text),
            ("error", sa.Text),
            ("attempts", sa.Integer),
            ("trace_id", sa.String(32)),
            ("created_at", Timestamp),
            ("attended_at", Timestamp),
        )
    ]
    before = sa.table("dead_letters_before", *columns)
    after = sa.table("dead_letters", sa.column("id", sa.String(32)), *(sa.column(c.name, c.type) for c in columns))
    last = ""
    while True:
        query = sa.select(before).where(before.c.event_id > last).order_by(before.c.event_id).limit(AT_ONCE)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            return
        connection.execute(sa.insert(after), [{"id": uuid4().hex, **row} for row in rows])
        last = rows[-1]["event_id"]
