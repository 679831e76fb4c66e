"""Folders for one round, gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Make a folder that other users may pass through: PostgreSQL may run as one."""
    with tempfile.TemporaryDirectory(prefix="orderly-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder
