"""What asyncio of Python 3.11 leaves to its users."""

import asyncio


def going_on() -> bool:
    """Whether nobody has cancelled the current task. For the conditions of loops that run until they are cancelled.

    `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes together with its result (cpython#86296,
    mended in 3.12), and nats-py awaits every answer with it. A loop that only waited for the exception would go on for
    good, and the process would never stop.
    """
    task = asyncio.current_task()
    return task is None or not task.cancelling()


def heed() -> None:
    """Raise the cancellation of the current task that was swallowed, if one was."""
    if not going_on():
        raise asyncio.CancelledError
