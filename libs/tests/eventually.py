"""Waiting in tests: for a condition, never for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

EVERY_S = 0.01


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 5.0) -> None:
    """Return as soon as `condition` holds; fail the test unless it does within `within_s` seconds."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = condition()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    return
                await asyncio.sleep(EVERY_S)
    except TimeoutError:
        raise AssertionError(f"did not become true within {within_s:g} s") from None
