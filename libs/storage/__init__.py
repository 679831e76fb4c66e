"""Databases: engines for SQLite and PostgreSQL, units of work, migrations."""

from libs.storage.database import Database, is_transient
from libs.storage.types import Timestamp

__all__ = ["Database", "Timestamp", "is_transient"]
