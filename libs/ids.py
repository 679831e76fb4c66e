"""Identifiers: UUIDv7 (RFC 9562 §5.7), sortable by time and kind to B-tree indexes."""

import os
import threading
import time
from collections import deque
from uuid import UUID

_DRAWN_AT_ONCE = 4_096

_lock = threading.Lock()
_last = 0
_drawn: deque[bytes] = deque()


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
    tail = int.from_bytes(random_8(), "big") & ((1 << 62) - 1)
    return UUID(int=((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | tail)


def random_8() -> bytes:
    """Return 8 bytes from the system's source of randomness, which is asked for many at once: each time is a call."""
    while True:
        try:
            return _drawn.popleft()
        except IndexError:
            many = os.urandom(_DRAWN_AT_ONCE)
            _drawn.extend(many[start : start + 8] for start in range(0, _DRAWN_AT_ONCE, 8))


def draw_anew() -> None:
    """Forget what was drawn and not used yet."""
    _drawn.clear()


os.register_at_fork(after_in_child=draw_anew)  # two processes must not draw the same
