"""Clients see what there is to see, and a failure does not end them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from bench.clients import Load, ordering, reading, registering, repeat, steps_of
from bench.connection import NOT_JSON, Connection
from bench.people import Account, Failed, open_accounts, place_order

pytestmark = pytest.mark.uvloop
ANN = Account("ann", "token", ["1", "2"])


def test_only_what_ends_in_the_time_that_counts_counts() -> None:
    now = time.perf_counter()
    load = Load(began=now - 1, until=now + 60)
    load.note(now - 0.5, "confirmed")
    load.note(now - 2, "rejected", pending=True)  # begun in the warm-up: another is under way at the end
    load.fail("500")
    load.until = now - 0.1
    load.note(now - 0.5, "confirmed")  # ended too late
    load.fail("no answer")  # late, and it would have been late for ever
    load.began = load.until = now + 60
    load.note(now, "confirmed")  # ended in the warm-up
    load.fail("500")
    assert (len(load.seconds), load.pending) == (2, 1)
    assert load.outcomes == {"confirmed": 1, "rejected": 1}
    assert load.failures == {"500": 1, "no answer": 1}


async def test_a_client_reads_answers_in_any_pieces() -> None:
    answers = [b'{"a": 1}', b"[]"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST /x HTTP/1.1\r\n")
            await reader.readexactly(len(b'{"b":2}'))
            for byte in b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer):
                writer.write(bytes([byte]))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    connection = await Connection.to(f"http://127.0.0.1:{port}")
    assert await connection.ask("POST", "/x", {"b": 2}) == (201, {"a": 1})
    assert await connection.ask("POST", "/x", {"b": 2}) == (201, [])
    with pytest.raises(ConnectionError):
        await connection.ask("POST", "/x", {"b": 2})
    connection.close()
    server.close()


@asynccontextmanager
async def answering(answers: Sequence[bytes]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers each request with the next of these, and closes the connection instead of with nothing."""
    asked: list[str] = []
    script: Iterator[bytes] = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                asked.append(" ".join(head.split(" ")[:2]))
                length = head.lower().partition("content-length: ")[2].split("\r\n")[0]
                await reader.readexactly(int(length or 0))
                if not (answer := next(script, b"")):
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    server.close()


def said(status: int, body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


CRASHED = said(500, b"Internal Server Error", b"text/plain")
PENDING, CONFIRMED = b'{"id":"7","status":"pending"}', b'{"id":"7","status":"confirmed"}'


async def test_an_answer_that_is_not_json_is_one_all_the_same() -> None:
    async with answering([CRASHED, said(204, b"")]) as (base, _):
        connection = await Connection.to(base)
        assert await connection.ask("GET", "/x") == (500, NOT_JSON)
        assert await connection.ask("GET", "/x") == (204, None)
        connection.close()


async def test_what_is_not_http_ends_the_connection() -> None:
    async with answering([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]) as (base, _):
        connection = await Connection.to(base)
        with pytest.raises(ConnectionError, match="without its length"):
            await connection.ask("GET", "/x")
        with pytest.raises(ConnectionError):
            await connection.ask("GET", "/x")


async def test_an_outcome_is_asked_for_until_it_is_there() -> None:
    async with answering([said(202, PENDING), said(200, PENDING), said(200, CONFIRMED)]) as (base, asked):
        connection = await Connection.to(base)
        order, pending = await place_order(connection, ANN)
        assert (order["status"], pending) == ("confirmed", True)
        assert asked == ["POST /client/orders", "GET /client/orders/7", "GET /client/orders/7"]
        connection.close()


async def test_money_is_brought_when_the_account_is_open() -> None:
    token = b'{"access_token":"t"}'
    answers = [said(202, b"{}"), said(200, token), said(404, b"{}"), said(404, b"{}"), said(201, b"{}")]
    async with answering([*answers, said(202, PENDING), said(200, CONFIRMED)]) as (base, asked):
        (account,) = await open_accounts(base, 1, deposit="5", orders=1)
    assert (account.token, account.orders) == ("t", ["7"])
    assert asked[2:5] == ["POST /client/billing/deposits"] * 3
    async with answering([CRASHED]) as (base, _):
        with pytest.raises(RuntimeError, match="/client/users answered 500 instead of 201"):
            await open_accounts(base, 1, deposit="5")


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        ([CRASHED], "500"),
        ([said(202, PENDING), CRASHED], "500"),
        ([said(202, b"soon", b"text/plain")], "202"),
        ([said(201, b"{}")], "201"),
        ([said(202, PENDING)], "pending"),
    ],
)
async def test_an_order_without_an_outcome_has_failed(answers: list[bytes], how: str) -> None:
    async with answering(answers) as (base, _):
        connection = await Connection.to(base)
        with pytest.raises(Failed, match=how):
            await place_order(connection, ANN, until=0.0 if how == "pending" else float("inf"))
        connection.close()


async def test_clients_go_on_after_failures() -> None:
    confirmed = said(201, CONFIRMED)
    async with answering([confirmed, CRASHED, confirmed, b"", *[confirmed] * 100_000]) as (base, asked):
        load = await repeat(base, [ordering([ANN], "1.00", float("inf"))], warm_up_s=0.0, seconds=0.5)
    assert load.failures == {"500": 1, "no answer": 1}
    assert load.outcomes["confirmed"] == len(load.seconds)
    assert len(asked) - 3 <= len(load.seconds) <= len(asked) - 2  # the last may have ended too late


async def test_who_is_away_is_tried_again() -> None:
    async with answering([]) as (base, _):
        pass
    load = await repeat(base, [ordering([ANN], "1.00", float("inf"))], warm_up_s=0.0, seconds=0.2)
    assert (load.outcomes, set(load.failures)) == ({}, {"no answer"})
    assert load.failures["no answer"] > 1


async def test_orders_are_read_in_turn() -> None:
    async with answering([said(200, b"{}")] * 3 + [said(404, b"{}")]) as (base, asked):
        connection, step = await Connection.to(base), reading(ANN, "order")
        assert [(await step(connection)).name for _ in range(3)] == ["read"] * 3
        assert asked == ["GET /client/orders/1", "GET /client/orders/2", "GET /client/orders/1"]
        with pytest.raises(Failed, match="404"):
            await step(connection)
        connection.close()


async def test_everybody_registers_under_a_name_of_their_own() -> None:
    async with answering([said(201, b"{}"), said(202, b"{}"), said(409, b"{}")]) as (base, _):
        connection, step = await Connection.to(base), registering(iter(["a", "b", "c"]))
        assert [(await step(connection)).pending for _ in range(2)] == [False, True]
        with pytest.raises(Failed, match="409"):
            await step(connection)
        connection.close()


def test_clients_share_the_accounts() -> None:
    bob = Account("bob", "token")
    assert len(steps_of("place orders", 5, [ANN, bob], {"price": "1.00"}, 0.0)) == 5
    assert len(steps_of("register", 3, [], {}, 0.0)) == 3
    with pytest.raises(ValueError, match="nobody knows how to sing"):
        steps_of("sing", 1, [ANN], {}, 0.0)
