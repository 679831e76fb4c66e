"""Identifiers: UUIDv7 (RFC 9562 §5.7), sortable by time and kind to B-tree indexes."""

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """Return a new UUIDv7, greater than every one this process made before.

    The 12 bits after the millisecond timestamp count within it (RFC 9562 §6.2, method 3: a fraction of
    the millisecond), so ids made in one process sort in the order in which they were made.
    """
    global _last  # noqa: PLW0603 - the one counter of the process is the point
    with _lock:
        millis, rest = divmod(time.time_ns(), 1_000_000)
        stamp = (millis << 12) | (rest * 4096 // 1_000_000)
        _last = stamp = max(stamp, _last + 1)
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | tail)
