"""Profiles' table."""

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Uuid

METADATA = MetaData()

profiles = Table(
    "profiles",
    METADATA,
    Column("user_id", Uuid, primary_key=True),
    Column("login", String(64), nullable=False),
    Column("email", String(254), nullable=False),
    Column("first_name", String(200)),
    Column("last_name", String(200)),
    Column("phone", String(32)),
    Column("version", BigInteger, nullable=False, comment="how often it was changed"),
)
