"""A cancellation that was swallowed still ends what it was meant for."""

import asyncio

import pytest

from libs.tasks import going_on, heed


async def swallow() -> None:
    """Do what `wait_for` of Python 3.11 does when its result and a cancellation come together."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def test_a_loop_ends_although_its_cancellation_was_swallowed() -> None:
    turns = 0

    async def loop() -> None:
        nonlocal turns
        while going_on():
            turns += 1
            await swallow()

    looping = asyncio.create_task(loop())
    await asyncio.sleep(0)
    looping.cancel()
    await asyncio.wait_for(looping, 1)
    assert turns == 1


async def test_a_swallowed_cancellation_can_be_raised() -> None:
    async def work() -> None:
        heed()
        await swallow()
        heed()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(working, 1)


async def test_time_limits_are_no_cancellation() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert going_on()
