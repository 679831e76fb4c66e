"""Files that are written whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, like: Path | None = None) -> None:
    """Write a file whole or not at all, whenever the power fails. Readable by its owner only.

    With `like`, mode and owner are those of that file: whoever could read it can read this one.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if like is not None:
            model = like.stat()
            os.fchown(descriptor, model.st_uid, model.st_gid)
            os.fchmod(descriptor, model.st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    replace_durably(new, path)


def replace_durably(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`, in one step, and remember it across a power failure."""
    new.replace(path)
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
