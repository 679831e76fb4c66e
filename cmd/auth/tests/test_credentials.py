"""Passwords and tokens."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from argon2 import Type, extract_parameters
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from auth import credentials
from auth.credentials import Passwords, Tokens
from auth.settings import Settings
from libs.errors import Refusal
from libs.files import write_whole
from libs.ids import uuid7
from libs.tests.eventually import eventually
from libs.web import keys
from libs.web.identity import Caller, Verifier
from libs.web.keys import jwk_of


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords()


async def test_a_password_is_hashed_with_argon2id_and_a_salt_of_its_own(passwords: Passwords) -> None:
    first, second = await passwords.hash("ann", "secret"), await passwords.hash("ann", "secret")
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second
    assert extract_parameters(first).type is Type.ID
    assert "secret" not in first


async def test_only_the_right_password_matches(passwords: Passwords) -> None:
    known = await passwords.hash("ann", "correct horse 🐎")
    assert await passwords.matches(known, "correct horse 🐎")
    assert not await passwords.matches(known, "correct horse")
    assert not await passwords.matches(known, "")


@pytest.mark.parametrize("broken", ["", "not a hash", "$argon2id$v=19$m=19456,t=2,p=1$"])
async def test_a_broken_hash_matches_nothing(passwords: Passwords, broken: str) -> None:
    assert not await passwords.matches(broken, "secret")


async def test_an_unknown_login_matches_no_password_at_all(passwords: Passwords) -> None:
    passwords.__dict__["_nobodys"] = await passwords.hash("ann", "secret")
    assert not await passwords.matches(None, "secret")


class Recorder:
    """Stands where the hasher stands, and notes what it verifies and where."""

    def __init__(self, hasher: Any) -> None:
        self._hasher = hasher
        self.verified: list[str] = []
        self.threads: set[int] = set()

    def hash(self, password: str) -> str:
        self.threads.add(threading.get_ident())
        hashed: str = self._hasher.hash(password)
        return hashed

    def verify(self, password_hash: str, password: str) -> bool:
        self.threads.add(threading.get_ident())
        self.verified.append(password_hash)
        return bool(self._hasher.verify(password_hash, password))


async def test_an_unknown_login_costs_what_a_known_one_costs() -> None:
    passwords = Passwords()
    recorder = passwords._hasher = Recorder(passwords._hasher)  # type: ignore[assignment] # it does what is used of it
    known = await passwords.hash("ann", "secret")
    assert not await passwords.matches(None, "secret")
    assert not await passwords.matches(None, "")
    assert await passwords.matches(known, "secret")
    nobodys, again, somebodys = recorder.verified
    assert nobodys == again != somebodys == known
    assert extract_parameters(nobodys) == extract_parameters(somebodys)


async def test_the_event_loop_goes_on_while_a_password_is_hashed() -> None:
    passwords = Passwords()
    recorder = passwords._hasher = Recorder(passwords._hasher)  # type: ignore[assignment] # it does what is used of it
    hashing = asyncio.create_task(passwords.hash("ann", "secret"))
    ticks = 0
    while not hashing.done():
        await asyncio.sleep(0)
        ticks += 1
    # Were it done in the loop, the task would be done at the second tick.
    assert ticks > 10
    assert await passwords.matches(hashing.result(), "secret")
    assert threading.get_ident() not in recorder.threads


async def test_who_cannot_be_served_soon_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "WAITING_AT_MOST", 2)
    passwords, may_go = Passwords(), threading.Event()
    hasher: Any = passwords._hasher
    held: Any = SimpleNamespace(hash=lambda password: may_go.wait() and hasher.hash(password))
    passwords._hasher = held
    first, second = (asyncio.create_task(passwords.hash(login, "secret")) for login in ("ann", "bob"))
    await eventually(lambda: passwords._waiting == 2)
    with pytest.raises(Refusal) as refused:
        await passwords.matches(None, "secret")
    assert refused.value.slug == "overloaded"
    assert refused.value.transient
    may_go.set()
    await asyncio.gather(first, second)
    assert (await passwords.hash("ann", "secret")).startswith("$argon2id$")


async def test_what_is_asked_many_times_at_once_is_hashed_once_and_for_its_login_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "WAITING_AT_MOST", 3)
    passwords = Passwords()
    asked = [("ann", "secret")] * 100 + [("bob", "secret"), ("ann", "another")]
    hashes = await asyncio.gather(*(passwords.hash(*one) for one in asked))
    assert len(set(hashes)) == 3
    assert len(set(hashes[:100])) == 1
    assert await passwords.hash("ann", "secret") not in hashes, "a hash is kept"


async def test_who_goes_away_does_not_take_the_hash_along() -> None:
    passwords = Passwords()
    gone, waiting = (asyncio.create_task(passwords.hash("ann", "secret")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await passwords.matches(await waiting, "secret")


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem_of(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def settings_of(tmp_path: Path, key: rsa.RSAPrivateKey) -> Callable[..., Settings]:
    """Make settings whose keys are in files."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(pem_of(key))
    public.write_bytes(public_pem_of(key))

    def make(**changes: Any) -> Settings:
        values: dict[str, Any] = {
            "jwt_private_key": private,
            "jwt_public_keys": public,
            "database_url": "sqlite:///unused.db",
            "fingerprint_key": os.urandom(16).hex(),
        }
        return Settings(**(values | changes))

    return make


def test_a_token_is_good_for_those_who_verify_it(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(token_lifetime_s=120, jwt_issuer="us", jwt_audience="them")
    tokens, user_id = Tokens(settings), uuid7()
    token = tokens.issue(user_id, "ann")
    verifier = Verifier(settings.jwt_public_keys, issuer="us", audience="them")
    assert verifier.caller_of(f"Bearer {token}") == Caller(user_id, "ann")
    assert tokens.lifetime_s == 120


def test_a_token_says_who_and_for_how_long(settings_of: Callable[..., Settings], key: rsa.RSAPrivateKey) -> None:
    tokens, user_id = Tokens(settings_of(token_lifetime_s=120)), uuid7()
    first, second = tokens.issue(user_id, "ann"), tokens.issue(user_id, "ann")
    claims = jwt.decode(first, key.public_key(), algorithms=["RS256"], audience="orderly")
    assert claims["exp"] - claims["iat"] == 120
    assert (claims["iss"], claims["sub"], claims["login"]) == ("orderly", str(user_id), "ann")
    assert set(claims) == {"iss", "aud", "sub", "login", "iat", "exp", "jti"}
    assert first != second
    assert jwt.get_unverified_header(first)["kid"] == jwk_of(key.public_key())["kid"]


def test_the_public_keys_are_shown_and_the_private_one_is_not(
    settings_of: Callable[..., Settings], key: rsa.RSAPrivateKey
) -> None:
    settings = settings_of()
    following = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    settings.jwt_public_keys.write_bytes(public_pem_of(key) + public_pem_of(following))
    shown = Tokens(settings).public_keys()
    assert shown == [jwk_of(key.public_key()), jwk_of(following.public_key())]
    assert all(set(jwk) == {"kty", "n", "e", "kid", "use", "alg"} for jwk in shown)
    token = Tokens(settings).issue(uuid7(), "ann")
    jwks = jwt.PyJWKSet.from_dict({"keys": shown})
    signer = jwks[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, signer.key, algorithms=["RS256"], audience="orderly")["login"] == "ann"


def test_a_key_that_cannot_sign_such_tokens_is_refused_at_the_start(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    other = tmp_path / "elliptic.pem"
    other.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(TypeError, match="RSA"):
        Tokens(settings_of(jwt_private_key=other))


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", -1)


@pytest.mark.usefixtures("looks_always")
def test_a_private_key_that_is_replaced_signs_once_its_public_key_is_there(
    settings_of: Callable[..., Settings], key: rsa.RSAPrivateKey
) -> None:
    settings, following = settings_of(), keys.new_key()
    tokens = Tokens(settings)

    def kid() -> str:
        header: str = jwt.get_unverified_header(tokens.issue(uuid7(), "ann"))["kid"]
        return header

    first, second = (jwk_of(one.public_key())["kid"] for one in (key, following))
    write_whole(settings.jwt_private_key, pem_of(following))
    assert [kid(), kid()] == [first, first]
    write_whole(settings.jwt_public_keys, public_pem_of(key) + public_pem_of(following))
    assert [kid(), kid()] == [second, second]
    write_whole(settings.jwt_private_key, b"nonsense")
    assert kid() == second
    write_whole(settings.jwt_private_key, pem_of(key))
    assert kid() == first


def test_public_keys_that_cannot_be_read_are_our_fault(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of()
    settings.jwt_public_keys.unlink()
    with pytest.raises(Refusal, match="not available"):
        Tokens(settings).public_keys()
