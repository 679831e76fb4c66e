"""Image and Compose file without an engine: what they say must be what the services read, answer and may do."""

import asyncio
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from sqlalchemy import make_url

from gateway.app import make_gateway
from gateway.settings import Settings as GatewaySettings
from libs.local.servers import CannotStart, Postgres, free_port
from libs.local.supervisor import environment
from libs.settings import HttpSettings, ServiceSettings
from libs.telemetry import Telemetry
from libs.web.app import make_app
from libs.web.identity import Verifier
from orderly.compose import FILE, Compose, ensure_secrets, secret_names
from orderly.engine import Engine
from orderly.newman import ROOT
from orderly.services import NAMES, SERVICES

BIN = Path(sys.executable).parent
SETTINGS: dict[str, type[HttpSettings]] = {
    **{service.name: service.settings for service in SERVICES},
    "gateway": GatewaySettings,
}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@cache
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def kept(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def filled(text: str, values: dict[str, str]) -> str:
    """Put variables into a text as Compose does: `values`, else the default; else it is an error."""

    def value(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        if name in values:
            return values[name]
        assert kind == "-", f"{name} has neither a value nor a default"
        return default

    return VARIABLE.sub(value, text)


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    ensure_secrets(tmp_path)
    return kept(tmp_path)


def test_the_dockerfiles_are_clean() -> None:
    files = sorted((ROOT / "docker").rglob("*Dockerfile"))
    assert ROOT / "docker" / "Dockerfile" in files
    done = subprocess.run([BIN / "hadolint", *files], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert not any(line.startswith("# syntax") for file in files for line in file.read_text().splitlines())


def test_the_entrypoint_runs_what_is_named_and_names_what_there_is() -> None:
    def enter(*arguments: str) -> "subprocess.CompletedProcess[str]":
        given = {**environment(), "PATH": f"{BIN}:{os.environ['PATH']}"}
        command = [str(ROOT / "docker" / "entrypoint"), *arguments]
        return subprocess.run(command, env=given, check=False, capture_output=True, text=True)

    assert enter("echo", "billing", "migrate").stdout == "billing migrate\n"
    for given in ((), ("biling",), ("--help",)):
        done = enter(*given)
        assert done.returncode == 1
        assert ", ".join(sorted(SETTINGS)) in done.stderr


def test_every_image_is_a_variable_with_a_pinned_default() -> None:
    images = {one["image"] for one in services().values()}
    assert all(VARIABLE.fullmatch(image) for image in images)
    defaults = {name: default for image in images for name, _, default in VARIABLE.findall(image)}
    base = filled(services()["gateway"]["build"]["args"]["BASE_IMAGE"], {})
    assert f"ARG BASE_IMAGE={base}\n" in (ROOT / "docker" / "Dockerfile").read_text()
    assert defaults.pop("ORDERLY_IMAGE") == "orderly:local"  # built here
    assert set(defaults) == {"NATS_IMAGE", "POSTGRES_IMAGE"}
    for image in (*defaults.values(), base):
        name, _, tag = image.partition(":")
        assert re.fullmatch(r"\d+(\.\d+)+-[a-z-]+", tag), image
        if name == "nats":
            assert tuple(map(int, tag.partition("-")[0].split("."))) >= (2, 15, 1)
        if name == "postgres":
            assert tag.startswith("18.")


def test_every_service_waits_for_its_migration_and_the_broker() -> None:
    for name in NAMES:
        assert services()[name]["command"] == [name]
        migration = services()[f"{name}-migrate"]
        assert migration["command"] == [name, "migrate"]
        assert migration["environment"] == services()[name]["environment"]
        assert migration["depends_on"] == {"databases": {"condition": "service_completed_successfully"}}
        assert services()[name]["depends_on"] == {
            f"{name}-migrate": {"condition": "service_completed_successfully"},
            "nats": {"condition": "service_healthy"},
        }
    assert services()["databases"]["command"] == list(NAMES)
    assert services()["databases"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    ours = {*NAMES, *(f"{name}-migrate" for name in NAMES), "gateway"}
    assert set(services()) == ours | {"databases", "postgres", "nats"}


@pytest.mark.parametrize("name", SETTINGS)
def test_services_get_what_they_read_and_their_own_secrets_only(
    name: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {key: filled(value, values) for key, value in services()[name]["environment"].items()}
    fields = SETTINGS[name].model_fields
    assert {key.lower() for key in given} <= set(fields)
    assert {field.upper() for field, about in fields.items() if about.is_required()} <= set(given)
    for key in list(os.environ):
        if key.lower() in fields:
            monkeypatch.delenv(key)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = SETTINGS[name].from_environment()
    if isinstance(settings, GatewaySettings):
        assert settings.replicas() == {service: (f"http://{service}:8000",) for service in NAMES}
    if isinstance(settings, ServiceSettings):
        url = make_url(settings.database_url.get_secret_value())
        assert (url.username, url.host, url.database) == (name, "postgres", name)
        assert (settings.nats_user, settings.nats_url) == (name, "nats://nats:4222")
    shared = {"FINGERPRINT_KEY"} if name != "gateway" else set()
    own = {f"POSTGRES_PASSWORD_{name.upper()}", f"NATS_PASSWORD_{name.upper()}"} if name in NAMES else set()
    known = {secret for secret, value in values.items() if any(value in text for text in given.values())}
    assert known == own | shared


@pytest.mark.parametrize("name", SETTINGS)
def test_keys_are_mounted_as_folders_and_the_private_one_into_auth_only(name: str) -> None:
    mounts = {Path(one["source"]).name: one for one in services()[name]["volumes"]}
    assert set(mounts) == {"jwt-validation-key", *(["jwt-signing-keys"] if name == "auth" else [])}
    assert all(one["read_only"] for one in mounts.values())
    read = {str(Path(value).parent) for key, value in services()[name]["environment"].items() if key.startswith("JWT_")}
    assert read == {one["target"] for one in mounts.values()}


def paths_of(name: str) -> set[str]:
    """List what the process of that name answers."""
    if name == "gateway":
        app = make_gateway(GatewaySettings())
    else:
        routes = next(service.routes for service in SERVICES if service.name == name)
        verifier = Verifier(Path("none"), issuer="orderly", audience="orderly")
        telemetry = Telemetry.of(name, HttpSettings())
        app = make_app(routes, None, verifier, telemetry, requests_at_most=1)  # type: ignore[arg-type] # asked nothing
    return {resource.canonical for resource in app.router.resources()}


@pytest.mark.parametrize("name", SETTINGS)
async def test_health_checks_ask_what_is_answered(name: str) -> None:
    [command] = [part for part in services()[name]["healthcheck"]["test"] if "/dev/tcp/" in part]
    path = re.search(r"GET (\S+) HTTP", command)
    port = re.search(r"/dev/tcp/127\.0\.0\.1/(\d+);", command)
    assert path
    assert port
    assert path[1] in paths_of(name)
    assert f"PORT={port[1]}\n" in (ROOT / "docker" / "Dockerfile").read_text()


def test_whatever_runs_may_do_as_little_as_possible() -> None:
    for name, one in services().items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert "cap_add" not in one, name
        assert "privileged" not in one, name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"\d+m", one["mem_limit"]), name
        assert re.fullmatch(r"\d+:\d+", one["user"]), name
        if name in SETTINGS:
            assert one["user"] == "10001:10001"
        stays = name in (*SETTINGS, "postgres", "nats")
        assert (one.get("restart") == "unless-stopped") is stays, name
        assert ("healthcheck" in one) is stays, name


def test_only_the_gateway_and_the_broker_are_reachable_and_from_this_machine_only() -> None:
    published = {name: one["ports"] for name, one in services().items() if "ports" in one}
    assert published == {
        "gateway": ["127.0.0.1:${GATEWAY_PORT:-8080}:8000"],
        "nats": ["127.0.0.1:${NATS_PORT:-4222}:4222"],
    }
    networks = {name: set(one["networks"]) for name, one in services().items()}
    assert networks["gateway"] == {"requests"}
    assert networks["postgres"] == networks["databases"] == {"data"}
    assert networks["nats"] == {"events"}
    assert compose()["networks"]["data"] == {"internal": True}


@pytest.mark.parametrize("passwords", [True, False])
def test_the_broker_accepts_its_configuration_with_passwords_only(
    values: dict[str, str], *, passwords: bool, tmp_path: Path
) -> None:
    given = services()["nats"]["environment"]
    named = {name: filled(value, values) for name, value in given.items() if passwords}
    store = (ROOT / "docker" / "nats" / "nats.conf").read_text()
    assert "sync_interval: always" in store
    command = [str(BIN / "nats-server"), "-t", "-c", str(ROOT / "docker" / "nats" / "nats.conf")]
    done = subprocess.run(command, env=environment(**named), check=False, capture_output=True, text=True)
    assert done.returncode == (0 if passwords else 1), done.stderr


def test_secrets_are_made_once_and_what_is_missing_is_added(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    made = kept(tmp_path)
    assert set(made) == set(secret_names())
    assert len(set(made.values())) == len(made)
    # The broker takes what begins like a number for one.
    assert all(re.fullmatch(r"[a-z][0-9a-f]{32}", value) for value in made.values())
    key = tmp_path / "secrets" / "jwt-signing-keys" / "jwt-private.pem"
    written = key.read_bytes()
    without = [line for line in (tmp_path / ".env").read_text().splitlines(keepends=True) if "BILLING" not in line]
    (tmp_path / ".env").write_text("".join(without))
    ensure_secrets(tmp_path)
    again = kept(tmp_path)
    assert {name for name in made if made[name] != again[name]} == {name for name in made if "BILLING" in name}
    assert key.read_bytes() == written
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert key.stat().st_mode & 0o777 == 0o644
    assert key.parent.stat().st_mode & 0o777 == 0o755


def test_the_compose_file_asks_for_the_secrets_that_are_made() -> None:
    wanted = {name for name, kind, _ in VARIABLE.findall(FILE.read_text()) if kind == "?"}
    assert wanted == set(secret_names())
    ignored = subprocess.run(
        ["git", "-C", ROOT, "check-ignore", "docker/.env", "docker/secrets/jwt-signing-keys/jwt-private.pem"],
        check=False,
        capture_output=True,
        text=True,
    )
    if (ROOT / ".git").exists():
        assert len(ignored.stdout.splitlines()) == 2


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A docker that answers nothing but what a test lets it."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program


def test_what_is_missing_of_an_engine_is_said(docker: Path) -> None:
    assert "is not installed" in (Engine("no-such-docker").complaint() or "")
    engine = Engine(str(docker))
    assert engine.complaint() is None
    docker.write_text("#!/bin/sh\n[ $1 = version ]\n")
    assert "has no compose" in (engine.complaint() or "")
    docker.write_text("#!/bin/sh\necho Permission denied >&2\nexit 1\n")
    assert "(Permission denied)" in (engine.complaint() or "")


def test_data_whose_passwords_are_gone_is_not_started_over(docker: Path, tmp_path: Path) -> None:
    compose = Compose(Engine(str(docker)), free_port(), free_port(), folder=tmp_path)
    compose.check()
    docker.write_text("#!/bin/sh\n[ $1 = volume ] && echo orderly_postgres\n")
    with pytest.raises(CannotStart, match="orderly_postgres"):
        compose.check()


def test_what_cannot_be_read_any_more_can_still_be_removed(docker: Path, tmp_path: Path) -> None:
    docker.write_text('#!/bin/sh\necho "$@" "$NATS_PASSWORD_AUTH"\n')
    said = Compose(Engine(str(docker)), free_port(), free_port(), folder=tmp_path).told("down")
    assert said.endswith("compose.yaml down lost")


async def test_every_service_gets_a_database_that_opens_for_it_only(postgres: Postgres) -> None:
    names = ["alpha", "beta"]
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres._port), "PGUSER": "postgres"}
    given = {**address, "PGPASSWORD": postgres._password, "PATH": f"{postgres._bin}:{os.environ['PATH']}"}
    for word in ("first", "it's second"):  # what is there stays; passwords change
        passwords = {f"POSTGRES_PASSWORD_{name.upper()}": f"{word} {name}" for name in names}
        script = ["sh", str(ROOT / "docker" / "postgres" / "databases.sh"), *names]
        running = await asyncio.create_subprocess_exec(*script, env=environment(**given, **passwords))
        assert await running.wait() == 0

        async def open_as(name: str, database: str, password: str) -> None:
            host, port = "127.0.0.1", postgres._port
            at = await asyncpg.connect(host=host, port=port, user=name, password=password, database=database)
            await at.execute("create table if not exists own (id int)")
            await at.close()

        for name in names:
            await open_as(name, name, f"{word} {name}")
            for other in {*names, "postgres", "template1"} - {name}:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await open_as(name, other, f"{word} {name}")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await open_as("alpha", "alpha", "first alpha")
