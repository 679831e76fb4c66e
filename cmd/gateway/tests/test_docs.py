"""The contract and its page are served whole, and by the gateway alone."""

import hashlib
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import docs
from gateway.docs import FOLDERS, STATIC, add_docs

MEASURED = "dcaf76612bc4a3fbcc923a8966dee2f6146a5f32e5ce1b6f02dd60cbbf89500b"
"""SHA-256 of Redoc 2.5.4's redoc.standalone.js, as its authors published it."""


@pytest.fixture
async def client() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    add_docs(app)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_contract_is_served_as_it_is_committed(client: TestClient[web.Request, web.Application]) -> None:
    async with client.get("/client/openapi.json") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.read() == (FOLDERS[1] / "openapi.json").read_bytes()
        assert (await response.json())["openapi"] == "3.1.0"


@pytest.mark.parametrize("path", ["/client/docs", "/client/docs/"])
async def test_the_page_is_called_orderly(client: TestClient[web.Request, web.Application], path: str) -> None:
    async with client.get(path) as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        assert "<title>Orderly</title>" in await response.text()


async def test_everything_the_page_loads_is_served_here(client: TestClient[web.Request, web.Application]) -> None:
    async with client.get("/client/docs") as response:
        loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', await response.text())
    paths = [path for path in loaded if path != "data:,"]
    assert "/client/openapi.json" in paths
    assert len(paths) > 2
    for path in paths:
        assert re.match("/[^/]", path), "of its own origin"
        async with client.get(path) as response:
            assert response.status == 200
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert len(await response.read()) > 0


async def test_scripts_and_styles_are_called_what_they_are(client: TestClient[web.Request, web.Application]) -> None:
    async with client.get("/client/docs/redoc.standalone.js") as response:
        assert response.content_type in ("text/javascript", "application/javascript")
    async with client.get("/client/docs/docs.css") as response:
        assert response.content_type == "text/css"


@pytest.mark.parametrize("path", ["/client/docs", "/client/docs/", "/client/docs/redoc.standalone.js"])
async def test_the_policy_lets_nothing_in_from_elsewhere(
    client: TestClient[web.Request, web.Application], path: str
) -> None:
    async with client.get(path) as response:
        policy = response.headers["Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


def test_the_policy_knows_the_styles_of_just_this_redoc() -> None:
    bundle = (STATIC / "redoc.standalone.js").read_bytes()
    assert hashlib.sha256(bundle).hexdigest() == MEASURED, (
        "another Redoc: open /client/docs in a browser, put the hashes that its console asks for into POLICY, "
        "copy its LICENSE files, and only then change MEASURED"
    )


def test_redoc_comes_with_its_licences() -> None:
    assert "The MIT License" in (STATIC / "redoc.LICENSE").read_text(encoding="utf-8")
    notices = (STATIC / "redoc.standalone.js.LICENSE.txt").read_text(encoding="utf-8")
    assert 'Version: "2.5.4"' in notices


async def test_a_page_that_did_not_change_is_not_sent_again(client: TestClient[web.Request, web.Application]) -> None:
    async with client.get("/client/docs/redoc.standalone.js") as response:
        assert response.headers["Cache-Control"] == "no-cache"
        tag = response.headers["ETag"]
    async with client.get("/client/docs/redoc.standalone.js", headers={"If-None-Match": tag}) as response:
        assert response.status == 304


@pytest.mark.parametrize("path", ["/client/docs/docs.html", "/client/docs/redoc.LICENSE", "/client/docs/../docs.py"])
async def test_nothing_else_is_served(client: TestClient[web.Request, web.Application], path: str) -> None:
    async with client.get(path) as response:
        assert response.status == 404


def contracts_in(folder: Path, content: str) -> Path:
    folder.mkdir()
    for name in ("openapi.json", "events.html", "orders.yaml"):
        (folder / name).write_text(content)
    return folder


async def test_packed_contracts_go_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, checked_out = contracts_in(tmp_path / "packed", "{}"), contracts_in(tmp_path / "checked-out", "[]")
    monkeypatch.setattr(docs, "FOLDERS", (packed, checked_out))
    app = web.Application()
    add_docs(app)
    async with TestClient(TestServer(app)) as client:
        for path in ("/client/openapi.json", "/client/docs/events", "/client/asyncapi/orders.yaml"):
            async with client.get(path) as response:
                assert await response.text() == "{}"


def test_a_gateway_without_its_contracts_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match="just contracts"):
        add_docs(web.Application())


def test_a_wheel_packs_every_contract() -> None:
    project = tomllib.loads((FOLDERS[1].parent / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    names = [path.name for path in FOLDERS[1].iterdir() if path.is_file()]
    assert packed == {f"asyncapi/{name}": f"gateway/static/asyncapi/{name}" for name in names}


async def test_the_catalogue_of_events_needs_no_script_and_nothing_from_elsewhere(
    client: TestClient[web.Request, web.Application],
) -> None:
    async with client.get("/client/docs/events") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "<script" not in page
    assert "script-src" not in policy
    assert "style=" not in page
    links = set(re.findall(r'(?:src|href)="([^"#]+)"', page)) - {"data:,"}
    assert {"/client/docs/events.css", "/client/docs", "/client/asyncapi/billing.yaml"} <= links
    for path in links:
        async with client.get(path) as response:
            assert response.status == 200, path
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert set(anchors) <= set(re.findall(r'id="([^"]+)"', page))


@pytest.mark.parametrize("service", sorted(path.stem for path in FOLDERS[1].glob("*.yaml")))
async def test_the_events_of_a_service_are_described_for_any_tool(
    client: TestClient[web.Request, web.Application], service: str
) -> None:
    async with client.get(f"/client/asyncapi/{service}.yaml") as response:
        assert response.content_type == "application/yaml"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert await response.read() == (FOLDERS[1] / f"{service}.yaml").read_bytes()
