"""What the publisher knows of its stream: its incarnation, and the newest message it keeps."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "messaging_0002"
down_revision = "messaging_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("incarnation", sa.BigInteger, nullable=False, comment="how often the stream was made; 0: not yet"),
        sa.Column("begun_at", Timestamp, nullable=False, comment="when somebody set out to make this incarnation"),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="newest mark in the outbox; 0: none"),
        sa.Column("message_id", sa.Uuid, comment="the message there"),
    )
