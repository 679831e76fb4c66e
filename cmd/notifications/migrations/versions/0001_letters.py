"""Contacts and letters."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "notifications_0001"
down_revision = None
branch_labels = ("notifications",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contacts",
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("login", sa.String(64)),
        sa.Column("email", sa.String(254)),
        sa.Column("first_name", sa.String(200)),
        sa.Column("version", sa.BigInteger, nullable=False, comment="the profile's; higher is newer; -1 while unknown"),
        sa.CheckConstraint("version < 0 or (login is not null and email is not null)", name="known_contact_is_whole"),
    )
    op.create_table(
        "letters",
        sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7: sorts by creation"),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("cause", sa.String(80), nullable=False, unique=True, comment="one letter for each cause, ever"),
        sa.Column("order_id", sa.Uuid),
        sa.Column("recipient", sa.String(254), comment="null while the address is unknown"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.CheckConstraint("kind in ('joy', 'sorrow', 'cancelled', 'deposit', 'note')", name="letter_kind"),
    )
    op.create_index("letters_by_owner", "letters", ["user_id", "id"])
    for name, column, condition in (
        ("letters_by_order", "order_id", "order_id is not null"),
        ("letters_unaddressed", "user_id", "recipient is null"),
    ):
        op.create_index(name, "letters", [column], postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
