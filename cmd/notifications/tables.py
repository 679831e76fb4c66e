"""Notifications' tables."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, MetaData, String, Table, Text, Uuid

from libs.storage import Timestamp

METADATA = MetaData()

contacts = Table(
    "contacts",
    METADATA,
    Column("user_id", Uuid, primary_key=True),
    Column("login", String(64)),
    Column("email", String(254)),
    Column("first_name", String(200)),
    Column("version", BigInteger, nullable=False, comment="the profile's; higher is newer; -1 while unknown"),
    CheckConstraint("version < 0 or (login is not null and email is not null)", name="known_contact_is_whole"),
)

letters = Table(
    "letters",
    METADATA,
    Column("id", Uuid, primary_key=True, comment="UUIDv7: sorts by creation"),
    Column("user_id", Uuid, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("cause", String(80), nullable=False, unique=True, comment="one letter for each cause, ever"),
    Column("order_id", Uuid),
    Column("recipient", String(254), comment="null while the address is unknown"),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    CheckConstraint("kind in ('joy', 'sorrow', 'cancelled', 'deposit', 'note')", name="letter_kind"),
)
Index("letters_by_owner", letters.c.user_id, letters.c.id)
Index(
    "letters_by_order",
    letters.c.order_id,
    postgresql_where=letters.c.order_id.is_not(None),
    sqlite_where=letters.c.order_id.is_not(None),
)
Index(
    "letters_unaddressed",
    letters.c.user_id,
    postgresql_where=letters.c.recipient.is_(None),
    sqlite_where=letters.c.recipient.is_(None),
)
