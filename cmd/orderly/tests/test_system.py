"""The whole system, as users meet it: real processes, real servers, both databases."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

from libs.ids import uuid7
from libs.tests.eventually import eventually
from orderly.credentials import ensure_credentials
from orderly.newman import newman
from orderly.services import NAMES, SERVICES
from orderly.story import Step, Story
from orderly.system import System
from orderly.tail import EVERYTHING, Seen, watching
from orderly.tests.documents import committed, deviations
from orderly.tests.systems import Customer, customers, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param("sqlite", marks=pytest.mark.xdist_group("system on sqlite")),
        pytest.param("postgres", marks=pytest.mark.xdist_group("system on postgres")),
    ],
)
async def system(request: pytest.FixtureRequest) -> AsyncIterator[System]:
    """A system that the tests of this module share."""
    async with running_system(request.param) as running:
        yield running


async def test_the_story_is_as_it_must_be(system: System) -> None:
    seen: list[Seen] = []
    async with watching(system.nats_url, EVERYTHING, seen.append), aiohttp.ClientSession() as session:
        steps = [step async for step in Story(session, system.url, seen).play()]
    assert [step.number for step in steps] == list(range(1, 9))
    assert _types(steps[2]) == {
        "orders.order.placed",
        "billing.payment.accepted",
        "orders.order.confirmed",
        "notifications.letter.stored",
    }


async def test_one_subject_shows_the_life_of_an_order(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("200")
        seen: list[Seen] = []
        async with watching(system.nats_url, EVERYTHING, seen.append):
            _, order = await ann.order("150")
            about = f".{order['id']}"
            await eventually(lambda: len([event for event in seen if event.subject.endswith(about)]) >= 4)
        life = [event for event in seen if event.subject.endswith(about)]
        assert [event.type for event in life] == [
            "orders.order.placed",
            "billing.payment.accepted",
            "orders.order.confirmed",
            "notifications.letter.stored",
        ]
        assert json.loads(life[0].payload)["price"] == "150.00"
        assert json.loads(life[-1].payload)["recipient"] == f"{ann.login}@example.org"


async def test_every_event_of_an_order_carries_the_trace_of_its_request(system: System) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    client, headers = Client(), []
    await client.connect(system.nats_url)

    async def keep(message: Any) -> None:
        if not message.subject.startswith("$JS."):  # the server says what its API was asked
            headers.append(message.headers)

    await client.subscribe("*.*.*.*", cb=keep)
    await client.flush()
    async with customers(system) as customer:
        ann = await customer().arrive("10")
        headers.clear()
        await ann.order("5", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
        await eventually(lambda: len([head for head in headers if head and trace_id in head["traceparent"]]) >= 4)
    await client.close()
    for head in headers:
        assert head["ce-specversion"] == "1.0"
        assert head["Nats-Msg-Id"] == head["ce-id"]
        assert UUID(head["ce-id"]).version == 7
        assert head["ce-source"].startswith("/")


async def test_what_flows_is_what_the_contracts_say(system: System) -> None:
    flowing: list[Msg] = []

    async def keep(message: Msg) -> None:
        if not message.subject.startswith("$"):  # the server's own notices
            flowing.append(message)

    seen: list[Seen] = []
    async with watching(system.nats_url, EVERYTHING, seen.append) as client, customers(system) as customer:
        await client.subscribe("*.*.*.*", cb=keep)
        await client.flush()
        ann = await customer().arrive("100")
        _ = [step async for step in Story(ann.session, system.url, seen).play()]
        _, order = await ann.order("60")
        await ann.call("POST", f"/orders/{order['id']}/cancel")
        await ann.call("POST", "/billing/withdrawals", {"amount": "40"})
        await ann.call("PUT", f"/profiles/{ann.login}", {"phone": "+49 30 1234"})
        # Many at once are stored as one batch, which adds headers.
        await asyncio.gather(*(ann.call("POST", "/notifications", {"subject": "x", "body": "y"}) for _ in range(50)))
        unreadable = await _state_something_unreadable(system)
        wanted = {fact.type for service in SERVICES for fact in service.publishes}
        wanted |= {f"{name}.dead.user" for name in ("profiles", "billing", "notifications")}
        await eventually(lambda: wanted <= {message.subject.rsplit(".", 1)[0] for message in flowing})
    assert any("Nats-Batch-Commit" in (message.headers or {}) for message in flowing)
    for message in flowing:
        if message.subject != unreadable:
            assert deviations(message.subject, message.headers or {}, message.data) == [], message.subject


async def _state_something_unreadable(system: System) -> str:
    """Have auth state what nobody can read; return where."""
    credentials = ensure_credentials(system.plan.data_dir / "keys")
    subject = f"auth.user.registered.{uuid7()}"
    client = Client()
    await client.connect(system.nats_url, user="auth", password=credentials.nats["auth"])
    await client.publish(subject, b"{}")
    await client.flush()
    await client.close()
    return subject


async def config_of(jetstream: JetStreamContext, stream: str, durable: str) -> ConsumerConfig:
    """Ask how a durable consumer is configured; services make theirs after they have become ready."""
    found: list[ConsumerConfig] = []

    async def is_there() -> bool:
        with contextlib.suppress(NotFoundError):
            found.append((await jetstream.consumer_info(stream, durable)).config)
        return bool(found)

    await eventually(is_there, within_s=10)
    return found[0]


async def test_streams_and_durables_are_what_the_contracts_say(system: System) -> None:
    async with watching(system.nats_url, EVERYTHING, lambda _: None) as client:
        jetstream = client.jetstream()
        for name in NAMES:
            for operation in committed(name)["operations"].values():
                said = operation["bindings"]["nats"]["x-jetstream"]
                there: ConsumerConfig | StreamConfig
                if "durable_name" in said:
                    there = await config_of(jetstream, said["stream"], said["durable_name"])
                else:
                    there = (await jetstream.stream_info(said["stream"])).config
                for key, value in said.items():
                    if key != "stream":
                        assert getattr(there, key.removesuffix("_s")) == value, (name, key)


async def test_a_burst_of_orders_is_worked_off_in_batches_and_the_books_balance(system: System) -> None:
    async with customers(system) as customer:
        people = await asyncio.gather(*(customer().arrive("100") for _ in range(8)))
        answers = await asyncio.gather(*(person.order("3") for person in people for _ in range(40)))
        assert {status for status, _ in answers} <= {201, 202}
        for person in people:
            assert await person.audit() == {"confirmed": 33, "rejected": 7}
    for service, event in (("orders", "carried out"), ("billing", "handled"), ("notifications", "handled")):
        sizes = [line["batch"] for line in _log(system, service) if line["event"] == event]
        assert max(sizes) >= 8, f"{service} worked one by one: {sizes[-50:]}"


async def test_one_key_at_a_time_has_one_effect(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("100")
        headers = {"Idempotency-Key": "the same for all"}
        answers = await asyncio.gather(*(ann.order("10", **headers) for _ in range(50)))
        assert {status for status, _ in answers} == {201}
        assert len({order["id"] for _, order in answers}) == 1
        assert await ann.audit() == {"confirmed": 1}
        status, problem = await ann.order("11", **headers)
        assert (status, problem["type"]) == (422, "/problems/idempotency_key_reused")


async def test_an_order_is_where_its_location_says(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("10")
        headers = {"Authorization": f"Bearer {ann.token}"}
        async with ann.session.post(f"{system.url}/client/orders", json={"price": "10"}, headers=headers) as response:
            location, order = response.headers["Location"], await response.json()
        async with ann.session.get(f"{system.url}{location}", headers=headers) as response:
            assert await response.json() == order


@pytest.mark.parametrize(
    ("path", "made"), [("/orders", {"price": "1"}), ("/notifications", {"subject": "x", "body": "y"})]
)
async def test_a_list_that_grows_is_still_read_without_gap_or_repetition(
    system: System, path: str, made: dict[str, str]
) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("0.01")
        first = [(await ann.call("POST", path, made))[1]["id"] for _ in range(4)]
        read: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            _, page = await ann.call("GET", f"{path}?limit=1{cursor}")
            read += [item["id"] for item in page["items"]]
            cursor = f"&cursor={page['next']}" if page["next"] else None
            await ann.call("POST", path, made)
        assert [one for one in read if one in first] == first[::-1]
        assert len(set(read)) == len(read)


async def test_a_refusal_is_replayed_and_says_so(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("5")
        url = f"{system.url}/client/billing/withdrawals"
        headers = {"Authorization": f"Bearer {ann.token}", "Idempotency-Key": "too much"}
        for replayed in (None, "true"):
            async with ann.session.post(url, json={"amount": "10"}, headers=headers) as response:
                assert response.status == 409
                assert response.headers.get("Idempotent-Replayed") == replayed
            await ann.deposit("10")


async def test_the_gateway_answers_as_a_proxy_is_asked(system: System) -> None:
    """Whoever sets ``http_proxy`` sends the whole URL in the request line."""
    asked = b"GET http://arch.homework/client/.well-known/jwks.json HTTP/1.1\r\nHost: arch.homework\r\n"
    assert (await _raw(system, asked + b"Connection: close\r\n\r\n")).startswith("HTTP/1.1 200 ")


async def test_what_is_no_http_gets_a_problem_too(system: System) -> None:
    close = b"Host: x\r\nConnection: close\r\n"
    for asked in (
        b"garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /client/login HTTP/1.1\r\nContent-Length: many\r\n" + close + b"\r\n",
        b"POST /client/login HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n" + close + b"\r\nabc",
        b"GET /client/users/../../readyz HTTP/1.1\r\n" + close + b"\r\n",
    ):
        answer = await _raw(system, asked)
        assert answer.split(" ")[1] in ("400", "404", "422"), answer
        assert "application/problem+json" in answer
        assert "Traceback" not in answer


async def test_a_cancelled_order_gives_its_money_back_once(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("100")
        _, order = await ann.order("60")
        answers = await asyncio.gather(*(ann.call("POST", f"/orders/{order['id']}/cancel") for _ in range(10)))
        assert sorted(status for status, _ in answers) == [200] + [409] * 9
        assert await ann.balance() == Decimal(100)
        assert await ann.audit() == {"cancelled": 1}
        _, cancelled = await ann.call("GET", f"/orders/{order['id']}")
        assert (cancelled["status"], cancelled["refunded"]) == ("cancelled", "60.00")


async def test_nobody_sees_what_is_not_theirs(system: System) -> None:
    async with customers(system) as customer:
        ann, bob = await asyncio.gather(customer().arrive("100"), customer().arrive("100"))
        _, order = await ann.order("60")
        assert (await bob.call("GET", f"/orders/{order['id']}"))[0] == 404
        assert (await bob.call("POST", f"/orders/{order['id']}/cancel"))[0] == 404
        assert (await bob.call("GET", f"/profiles/{ann.login}"))[0] == 403
        assert (await bob.call("GET", f"/notifications?order_id={order['id']}"))[1]["items"] == []
        assert (await customer().call("GET", "/orders"))[0] == 401


async def test_a_profile_is_there_after_registration_and_letters_go_to_its_newest_address(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive()
        status, profile = await ann.call("GET", f"/profiles/{ann.login}")
        assert (status, profile["email"]) == (200, f"{ann.login}@example.org")
        wanted = {"email": "new@example.org", "first_name": "Ann", "phone": "+49 30 1234"}
        status, profile = await ann.call("PUT", f"/profiles/{ann.login}", wanted)
        assert (status, {name: profile[name] for name in wanted}) == (200, wanted)

        async def goes_to_the_new_address() -> bool:
            _, letter = await ann.call("POST", "/notifications", {"subject": "hello", "body": "me"})
            return bool(letter["recipient"] == "new@example.org")

        await eventually(goes_to_the_new_address)


MALFORMED: tuple[tuple[str, str, Any, int, str], ...] = (
    ("POST", "/billing/deposits", {"amount": "-1"}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": 0}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": True}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": "1.001"}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": "1000000000.01"}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": [1]}, 422, "amount"),
    ("POST", "/billing/deposits", {}, 422, "amount"),
    ("POST", "/billing/deposits", {"amount": "1", "amuont": "2"}, 422, "amuont"),
    ("POST", "/billing/deposits", [1], 422, "body"),
    ("POST", "/orders", {"price": "1", "description": "nul \x00"}, 422, "description"),
    ("POST", "/orders", {"price": None}, 422, "price"),
    ("POST", "/notifications", {"subject": "two\nlines", "body": "x"}, 422, "subject"),
    ("POST", "/notifications", {"subject": "x" * 201, "body": "x"}, 422, "subject"),
    ("GET", "/orders?limit=0", None, 422, "limit"),
    ("GET", "/orders?limit=many", None, 422, "limit"),
    ("GET", "/orders?cursor=nonsense", None, 422, "cursor"),
    ("GET", "/orders?page=1", None, 422, "page"),
    ("GET", "/orders?limit=1&limit=2", None, 422, "limit"),
    ("GET", f"/orders?cursor={'x' * 5_000}", None, 422, "cursor"),
    ("POST", "/billing/deposits", {f"x{number}": 1 for number in range(5_000)}, 422, "x0"),
    ("GET", "/billing/statement?cursor=x", None, 422, "cursor"),
    ("GET", "/billing/statement?cursor=99999999999999999999999", None, 422, "cursor"),
    ("GET", "/notifications?order_id=x", None, 422, "order_id"),
    ("GET", "/orders/nonsense", None, 404, ""),
    ("GET", "/orders/%00", None, 404, ""),
    ("GET", "/nothing", None, 404, ""),
    ("DELETE", "/orders", None, 405, ""),
    ("POST", "/notifications", {"subject": "x", "body": "x" * 70_000}, 413, ""),
)


async def test_every_malformed_request_gets_a_problem_that_names_the_field(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("1")
        for method, path, body, expected, field in MALFORMED:
            status, problem = await ann.call(method, path, body)
            assert status == expected, (method, path, body, problem)
            assert problem["type"].startswith("/problems/"), problem
            assert problem["status"] == expected
            assert len(problem.get("errors", ())) <= 50
            if field:
                assert field in [error["field"] for error in problem["errors"]], problem
        for raw in (b"", b"{", b"\xff\xfe", b'{"price": NaN}', b'"text"', b'{"price": "\\ud800"}'):
            url = f"{system.url}/client/orders"
            headers = {"Authorization": f"Bearer {ann.token}"}
            async with ann.session.post(url, data=raw, headers=headers) as response:
                assert response.status == 422, raw
                assert response.content_type == "application/problem+json"
        assert not [status for status in ann.statuses if status >= 500]


def _head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: x", "Connection: close", *headers, "", ""]).encode("utf-8", "surrogateescape")


def _post(body: bytes, *headers: str) -> bytes:
    return _head("POST /client/orders HTTP/1.1", "TOKEN", f"Content-Length: {len(body)}", *headers) + body


CHUNKED = _head("POST /client/orders HTTP/1.1", "TOKEN", "Transfer-Encoding: chunked")
HOSTILE: tuple[bytes, ...] = (
    *(b"\x00" * 64 + b"\r\n\r\n", b"\r\n" * 50 + b"\r\n\r\nx\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    *(_head(f"{line}") for line in ("GET", "GET /client", "GET  /client/orders  HTTP/1.1", "GET /client HTTP/9.9")),
    *(_head(f"GET {path} HTTP/1.1", "TOKEN") for path in ("*", "client/orders", "/client/%", "/client/orders/%zz")),
    *(_head(f"GET {path} HTTP/1.1", "TOKEN") for path in ("/client/orders/%ff%fe", "/client/orders/%ed%a0%80")),
    *(_head(f"GET {path} HTTP/1.1", "TOKEN") for path in ("/client/orders/\udcff\udcfe", "/client/orders?%ff=%ff")),
    *(_head(f"GET /client/orders?{query} HTTP/1.1", "TOKEN") for query in ("limit=%00", "cursor=%ed%a0%80", "&&=&;")),
    _head("GET http://x:99999/client/orders HTTP/1.1", "TOKEN"),
    _head("GET http://[::1/client/orders HTTP/1.1", "TOKEN"),
    _head("CONNECT x:80 HTTP/1.1"),
    _head("GET /client/" + "x" * 9_000 + " HTTP/1.1"),
    _head("GET /client/orders HTTP/1.1", *(f"X-{number}: 1" for number in range(1_000))),
    _head("GET /client/orders HTTP/1.1", "X: " + "x" * 100_000),
    _head("GET /client/orders HTTP/1.1", "X: \x00"),
    _head("GET /client/orders HTTP/1.1", "Authorization: Bearer \udcff.\udcff.\udcff"),
    _head("GET /client/orders HTTP/1.1", "TOKEN", "traceparent: \udcff\udcff", "Host: y"),
    _head("GET /client/orders HTTP/1.1", "TOKEN", "Upgrade: h2c"),
    _post(b'{"price": "0"}', "Idempotency-Key: \udcff"),
    _post(b'{"price": "0"}', "Idempotency-Key: " + "k" * 256),
    _post(b'{"price": "0"}', "Expect: the unexpected"),
    _post(b'{"price": "0"}', "Content-Encoding: br"),
    _post(b'{"price": "0"}', "Content-Type: text/\udcff; charset=none"),
    _post(b'{"price": "0"}', "Transfer-Encoding: chunked"),
    _post(b'{"price": "0"}', "Content-Length: 3"),
    *(
        _head("POST /client/orders HTTP/1.1", "TOKEN", f"Content-Length: {length}") + b"{}"
        for length in ("-1", "+2", "0x2", "2 2", "99999999999999999999")
    ),
    _head("POST /client/orders HTTP/1.1", "TOKEN", "Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n",
    *(CHUNKED + chunk for chunk in (b"zz\r\n{}\r\n", b"-1\r\n", b"f" * 18 + b"\r\n{}\r\n", b"2\r\n{}x\r\n0\r\n\r\n")),
    *(_post(b"[" * depth + b"]" * depth) for depth in (200, 30_000)),
    _post(b'{"price":' * 5_000),
    *(
        _post(b'{"price": %b}' % number)
        for number in (b"1e400", b"-1e400", b"NaN", b"-Infinity", b"9" * 5_000, b"1e-400")
    ),
    _post(b'{"price": "1", "price": "-1"}'),
    *(_post(b'{"%b": "1"}' % name) for name in (b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"x" * 60_000)),
    _post(b'{"price": "1", "description": "\\ud800"}'),
    _post(b'\xef\xbb\xbf{"price": "0"}'),
)


HARMLESS = ("200", "400", "401", "404", "405", "413", "417", "422")


async def test_no_request_makes_the_gateway_fail_or_hang(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive("1")
        harmful = []
        for asked in HOSTILE:
            answer = await _raw(system, asked.replace(b"TOKEN", f"Authorization: Bearer {ann.token}".encode()))
            if answer[9:12] not in HARMLESS or "Traceback" in answer:
                harmful.append((asked[:300], answer[:300]))
        assert harmful == []
        assert await ann.pages("/orders") == []
        assert (await ann.call("GET", "/health/"))[0] == 200


async def test_registering_twice_is_refused(system: System) -> None:
    async with customers(system) as customer:
        ann = await customer().arrive()
        given = {"login": ann.login, "password": "another one", "email": "x@example.org"}
        status, problem = await customer().call("POST", "/users", given)
        assert (status, problem["type"]) == (409, "/problems/login_taken")
        twins = [Customer(ann.session, ann.base, login=f"twin-{ann.login}") for _ in range(5)]
        answers = await asyncio.gather(
            *(twin.call("POST", "/users", {**given, "login": twin.login, "password": twin.password}) for twin in twins)
        )
        assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]


async def test_the_keys_verify_the_tokens(system: System) -> None:
    import jwt  # noqa: PLC0415 - only here are tokens looked into

    async with customers(system) as customer:
        ann = await customer().arrive()
        status, keys = await customer().call("GET", "/.well-known/jwks.json")
        assert status == 200
        kid = jwt.get_unverified_header(ann.token)["kid"]
        key = jwt.PyJWK(next(key for key in keys["keys"] if key["kid"] == kid))
        claims = jwt.decode(ann.token, key, algorithms=["RS256"], audience="orderly", issuer="orderly")
        assert claims["login"] == ann.login
        assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.newman
async def test_newman_passes(system: System, capfd: pytest.CaptureFixture[str]) -> None:
    code = await asyncio.to_thread(newman, system.url)
    assert code == 0, capfd.readouterr().out[-5000:]


async def _raw(system: System, asked: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.plan.gateway_port)
    writer.write(asked)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode(errors="replace")


def _types(step: Step) -> set[str]:
    return {event.type for event in step.events}


def _log(system: System, service: str) -> list[dict[str, Any]]:
    lines = (system.logs / f"{service}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
