"""Databases: engines for SQLite and PostgreSQL, units of work, migrations."""

from libs.storage.columns import Timestamp
from libs.storage.database import Database, is_lost_race, is_transient

__all__ = ["Database", "Timestamp", "is_lost_race", "is_transient"]
