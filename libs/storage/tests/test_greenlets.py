"""Greenlets that are used again: calls come and go as in new ones."""

import asyncio
import gc
import weakref
from contextvars import ContextVar
from typing import Any

import pytest
from greenlet import getcurrent
from sqlalchemy import text
from sqlalchemy.ext.asyncio import engine
from sqlalchemy.util import await_

from libs.storage import Database, greenlets
from libs.storage.greenlets import KEPT, call
from libs.tests.units import shared_database

database_url = shared_database()
noted: ContextVar[str] = ContextVar("noted", default="nothing")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greenlets, "_idle", greenlets._Idle())


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


def twice(value: Any) -> Any:
    return await_(later(value)), await_(later(value))


async def test_a_call_returns_what_the_function_does_with_what_it_awaited() -> None:
    assert await call(twice, 3) == (3, 3)
    assert await call(twice, value=4) == (4, 4)
    assert await call(lambda: "nothing awaited") == "nothing awaited"


async def test_a_failure_passes_through_the_function_and_out() -> None:
    seen: list[BaseException] = []

    def note(error: BaseException) -> None:
        try:
            await_(later(error))
        except BaseException as failure:
            seen.append(failure)
            raise

    for error in (ZeroDivisionError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            await call(note, error)
        assert raised.value is error is seen[-1]
    assert await call(twice, 3) == (3, 3)


async def test_who_is_cancelled_is_cancelled_inside() -> None:
    seen: list[str] = []

    def wait() -> None:
        try:
            await_(asyncio.Event().wait())
        except asyncio.CancelledError:
            seen.append("cancelled")
            await_(later(None))  # to tidy up, it may go on awaiting
            seen.append("tidied")
            raise

    waiting = asyncio.create_task(call(wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen == ["cancelled", "tidied"]
    assert await call(twice, 3) == (3, 3)


async def test_each_call_sees_the_context_of_its_caller() -> None:
    async def ask(what: str) -> Any:
        noted.set(what)
        return await call(lambda: (noted.get(), await_(later(0)), noted.get()))

    asked = [asyncio.create_task(ask(what)) for what in "abc"]
    assert await asyncio.gather(*asked) == [(what, 0, what) for what in "abc"]
    assert await ask("d") == ("d", 0, "d")


async def test_one_after_the_other_uses_the_same() -> None:
    first = await call(getcurrent)
    assert await call(getcurrent) is first


async def test_calls_at_once_have_one_each_and_a_limited_number_is_kept() -> None:
    used = await asyncio.gather(*(call(lambda: (await_(later(0)), getcurrent())[1]) for _ in range(KEPT + 10)))
    assert len(set(used)) == KEPT + 10
    assert len(greenlets._idle.greenlets) == KEPT


async def test_nothing_of_a_call_outlives_it() -> None:
    class Thing:
        pass

    def fail(_thing: Thing) -> None:
        raise ZeroDivisionError

    gc.disable()
    try:
        thing = Thing()
        gone = weakref.ref(thing)
        assert await call(bool, thing)
        with pytest.raises(ZeroDivisionError):
            await call(fail, thing)
        del thing
        assert gone() is None
    finally:
        gc.enable()


async def test_a_connection_makes_its_calls_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy may come to look for it elsewhere; then all is slower, and nothing else says so."""
    assert vars(engine)["greenlet_spawn"] is call  # the name that is looked up
    made: list[int] = []
    new = greenlets._Reused

    def count(*arguments: Any) -> Any:
        made.append(1)
        return new(*arguments)

    monkeypatch.setattr(greenlets, "_Reused", count)
    database = Database(database_url, name="tests")
    for _ in range(5):
        async with database.reading() as connection:
            await connection.execute(text("select 1"))
    await database.close()
    assert len(made) == 1
