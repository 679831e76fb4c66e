"""Who is asking: what makes a token good, and that nothing a client sends does more harm than a 401."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import Kind, Refusal
from libs.files import write_whole
from libs.ids import uuid7
from libs.web import identity
from libs.web import keys as key_files
from libs.web.identity import CACHE_AT_MOST, Caller, Verifier
from libs.web.keys import Watched, jwk_of, load_public_keys
from libs.web.problems import STATUSES

OURS, NEXT, STRANGERS = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3))
ANN: Final = uuid7()
LONG_AGO, FAR_AHEAD = 1_000_000_000, 4_000_000_000


def pem_of(*keys: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return b"".join(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)


def kid_of(key: rsa.RSAPrivateKey) -> str:
    return jwk_of(key.public_key())["kid"]


def claims_of_ann(**changes: Any) -> dict[str, Any]:
    """Make claims that are good but for `changes`; None takes one away."""
    now = int(time.time())
    claims = {"iss": "us", "aud": "them", "sub": str(ANN), "login": "ann", "iat": now, "exp": now + 3_600} | changes
    return {name: value for name, value in claims.items() if value is not None}


def token_of_ann(key: rsa.RSAPrivateKey = OURS, *, kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims_of_ann(**changes), key, algorithm="RS256", headers={"kid": kid or kid_of(key)})


def part(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The file with the public keys; it has ours."""
    file = tmp_path / "public.pem"
    file.write_bytes(pem_of(OURS))
    return file


@pytest.fixture
def verifier(keys: Path) -> Verifier:
    return Verifier(keys, issuer="us", audience="them")


class Clock:
    """Stands where `time` stands: ours to move."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def time(self) -> float:
        return time.time() + self.passed_s

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    for module in (identity, key_files):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=moved.time, monotonic=moved.monotonic))
    return moved


def is_refused(verifier: Verifier, authorization: str | None) -> bool:
    """Check that a header is refused with a 401, and not with anything else."""
    try:
        verifier.caller_of(authorization)
    except Refusal as refusal:
        kind = refusal.kind
    else:
        return False
    assert kind is Kind.UNAUTHENTICATED
    assert STATUSES[kind] == 401
    return True


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_a_good_token_names_its_caller(verifier: Verifier) -> None:
    token = token_of_ann()
    assert verifier.caller_of(bearer(token)) == Caller(ANN, "ann")
    assert verifier.caller_of(f"bearer  {token} ") == Caller(ANN, "ann")
    assert verifier.caller_of(f"BEARER {token}") == Caller(ANN, "ann")


def test_two_callers_are_not_confused(verifier: Verifier) -> None:
    bob = uuid7()
    tokens = {bob: token_of_ann(sub=str(bob), login="bob"), ANN: token_of_ann()}
    for _ in range(2):
        assert {user: verifier.caller_of(bearer(token)).user_id for user, token in tokens.items()} == {
            user: user for user in tokens
        }


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": LONG_AGO},
        {"exp": "soon"},
        {"iss": "them"},
        {"iss": ["us"]},
        {"aud": "us"},
        {"aud": ["others"]},
        {"nbf": FAR_AHEAD},
        {"iat": FAR_AHEAD},
        {"sub": "ann"},
        {"sub": 7},
        {"sub": ""},
        *({name: None} for name in ("exp", "iat", "iss", "aud", "sub", "login")),
    ],
    ids=str,
)
def test_a_token_whose_claims_are_wrong_or_missing_is_refused(verifier: Verifier, changes: dict[str, Any]) -> None:
    assert is_refused(verifier, bearer(signed(claims_of_ann(**changes))))


def signed(claims: Any) -> str:
    """Sign whatever it is, with our key, and without a look at it."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), OURS, algorithm="RS256", headers={"kid": kid_of(OURS)})


def test_an_expired_token_says_so(verifier: Verifier) -> None:
    with pytest.raises(Refusal, match="expired"):
        verifier.caller_of(bearer(token_of_ann(exp=int(time.time()) - 1)))


@pytest.mark.parametrize("claims", [[], "ann", 7, None, {}])
def test_a_token_that_claims_nothing_is_refused(verifier: Verifier, claims: Any) -> None:
    assert is_refused(verifier, bearer(signed(claims)))


def test_a_token_signed_with_another_key_is_refused(verifier: Verifier) -> None:
    assert is_refused(verifier, bearer(token_of_ann(STRANGERS)))
    assert is_refused(verifier, bearer(token_of_ann(STRANGERS, kid=kid_of(OURS))))


def test_a_token_that_was_changed_is_refused(verifier: Verifier) -> None:
    header, _, signature = token_of_ann().split(".")
    other = part(claims_of_ann(login="root"))
    assert is_refused(verifier, bearer(f"{header}.{other}.{signature}"))
    assert is_refused(verifier, bearer(f"{header}.{other}."))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None])
def test_a_token_without_signature_is_refused(verifier: Verifier, algorithm: str | None) -> None:
    header = part({"alg": algorithm, "typ": "JWT", "kid": kid_of(OURS)})
    for signature in ("", part(b"signed"), token_of_ann().split(".")[2]):
        assert is_refused(verifier, bearer(f"{header}.{part(claims_of_ann())}.{signature}"))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_secret_to_sign_with(verifier: Verifier, algorithm: str) -> None:
    signing_input = f"{part({'alg': algorithm, 'kid': kid_of(OURS)})}.{part(claims_of_ann())}"
    for secret in (pem_of(OURS), pem_of(OURS).strip(), jwk_of(OURS.public_key())["n"].encode()):
        digest = hmac.digest(secret, signing_input.encode(), getattr(hashlib, algorithm.replace("HS", "sha")))
        assert is_refused(verifier, bearer(f"{signing_input}.{part(digest)}"))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_our_own_key_with_another_algorithm_is_refused(verifier: Verifier, algorithm: str) -> None:
    token = jwt.encode(claims_of_ann(), OURS, algorithm=algorithm, headers={"kid": kid_of(OURS)})
    assert is_refused(verifier, bearer(token))


@pytest.mark.parametrize("kid", ["../../etc/passwd", "", 7, None, ["a"], {"a": 1}])
def test_a_token_whose_key_is_not_known_is_refused(verifier: Verifier, kid: Any) -> None:
    token = f"{part({'alg': 'RS256', 'kid': kid})}.{part(claims_of_ann())}.{part(b'signed')}"
    assert is_refused(verifier, bearer(token))
    assert is_refused(verifier, bearer(jwt.encode(claims_of_ann(), OURS, algorithm="RS256")))


NO_TOKENS = [
    None,
    *("", " ", "Bearer", "Bearer ", "Bearer\t", "Basic YW5uOnNlY3JldA==", "Token abc", "abc.def.ghi"),
    *("Bearer .", "Bearer ..", "Bearer ...", "Bearer a.b", "Bearer a.b.c", "Bearer a.b.c.d", "Bearer =.=.="),
    *("Bearer é.é.é", "Bearer \udcff.\udcff.\udcff", "Bearer \x00.\x00.\x00", "Bearer 🙂", "Bearer null"),
    bearer(f"{part([])}.{part({})}."),
    bearer(f"{part('text')}.{part({})}."),
    bearer(f"{part(b'{')}.{part({})}."),
    bearer(f"{part(b'[' * 6_000)}.{part({})}."),
    bearer(f"{part(b'{' + b'0' * 5_000)}.{part({})}."),
    bearer(f"{part(b'9' * 5_000)}.{part({})}."),
    bearer(f"{part({'alg': ['RS256'], 'kid': kid_of(OURS)})}.{part({})}."),
    bearer(f"{part({'alg': {}, 'kid': kid_of(OURS)})}.{part({})}."),
    bearer(f"{part({'alg': 'RS256', 'kid': kid_of(OURS), 'crit': ['exp']})}.{part({})}."),
    bearer(f"{part({'alg': 'RS256', 'kid': kid_of(OURS), 'b64': False})}.."),
    bearer(f"{part({'kid': kid_of(OURS)})}.{part({})}."),
    bearer("a" * 8_000),
]


@pytest.mark.parametrize("authorization", NO_TOKENS, ids=range(len(NO_TOKENS)))
def test_whatever_is_no_token_is_refused_with_a_401(verifier: Verifier, authorization: str | None) -> None:
    assert is_refused(verifier, authorization)


def know(verifier: Verifier, keys: dict[str, rsa.RSAPublicKey]) -> None:
    """Make the verifier know these keys, and look at no file any more."""
    watched = verifier._keys = Watched(Path("/nowhere"), load_public_keys)
    watched._known, watched._looked_at, watched.readable = keys, float("inf"), True


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([b"", b'{"alg":"RS256"}', b'{"alg":"RS256","kid":"']), st.booleans())
def test_no_header_does_more_than_a_401(raw: bytes, before: bytes, signature: bool) -> None:
    verifier = Verifier(Path("/nowhere"), issuer="us", audience="them")
    know(verifier, {kid_of(OURS): OURS.public_key()})
    token = f"{part(before + raw)}.{part(raw)}.{part(raw) if signature else ''}"
    assert is_refused(verifier, bearer(token))
    assert is_refused(verifier, raw.decode(errors="surrogateescape"))
    assert is_refused(verifier, "Bearer " + raw.decode("latin-1"))


def test_a_key_that_is_added_is_known_after_a_reload(verifier: Verifier, keys: Path, clock: Clock) -> None:
    assert verifier.caller_of(bearer(token_of_ann())).login == "ann"
    write_whole(keys, pem_of(OURS, NEXT))
    clock.passed_s += 1.5
    assert verifier.caller_of(bearer(token_of_ann(NEXT))).login == "ann"
    assert verifier.caller_of(bearer(token_of_ann(login="anna"))).login == "anna"


def test_a_key_that_is_replaced_is_known_after_a_reload_and_the_old_one_is_not(
    verifier: Verifier, keys: Path, clock: Clock
) -> None:
    verifier.caller_of(bearer(token_of_ann()))
    write_whole(keys, pem_of(NEXT))
    clock.passed_s += 1.5
    assert verifier.caller_of(bearer(token_of_ann(NEXT))).login == "ann"
    assert is_refused(verifier, bearer(token_of_ann(login="anna")))


def test_a_key_that_is_taken_away_is_forgotten_soon(verifier: Verifier, keys: Path, clock: Clock) -> None:
    verifier.caller_of(bearer(token_of_ann()))
    write_whole(keys, pem_of(NEXT))
    clock.passed_s += 300
    assert is_refused(verifier, bearer(token_of_ann(login="anna")))


@pytest.mark.parametrize("keys_now", [(NEXT,), ()])
def test_what_a_key_has_verified_is_forgotten_with_it(
    verifier: Verifier, keys: Path, clock: Clock, keys_now: tuple[rsa.RSAPrivateKey, ...]
) -> None:
    token = token_of_ann()
    verifier.caller_of(bearer(token))
    write_whole(keys, pem_of(*keys_now))
    clock.passed_s += 1.5
    assert is_refused(verifier, bearer(token))


def test_unknown_keys_do_not_make_us_look_at_the_file_all_the_time(
    verifier: Verifier, keys: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    stat = Path.stat

    def look(path: Path) -> Any:
        looks.append(path)
        return stat(path)

    monkeypatch.setattr(Path, "stat", look)
    for _ in range(5):
        assert is_refused(verifier, bearer(token_of_ann(STRANGERS)))
    assert looks == [keys]
    clock.passed_s += 1.5
    assert is_refused(verifier, bearer(token_of_ann(STRANGERS)))
    assert looks == [keys, keys]


def forget_keys(verifier: Verifier) -> None:
    """Make our key verify nothing any more, unnoticed, so that only the verifier's cache can say yes."""
    know(verifier, {kid_of(OURS): STRANGERS.public_key()})


def test_a_verified_token_is_remembered_for_a_minute(verifier: Verifier, clock: Clock) -> None:
    token = token_of_ann()
    verifier.caller_of(bearer(token))
    forget_keys(verifier)
    clock.passed_s += 55
    assert verifier.caller_of(bearer(token)) == Caller(ANN, "ann")
    clock.passed_s += 10
    assert is_refused(verifier, bearer(token))


def test_a_verified_token_is_not_remembered_longer_than_it_is_good(verifier: Verifier, clock: Clock) -> None:
    token = token_of_ann(exp=int(time.time()) + 20)
    verifier.caller_of(bearer(token))
    forget_keys(verifier)
    clock.passed_s += 15
    assert verifier.caller_of(bearer(token)) == Caller(ANN, "ann")
    clock.passed_s += 6
    assert is_refused(verifier, bearer(token))


def test_only_so_many_tokens_are_remembered(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CACHE_AT_MOST == 10_000
    monkeypatch.setattr(identity, "CACHE_AT_MOST", 3)
    tokens = [token_of_ann(login=f"ann{number}") for number in range(5)]
    for token in tokens:
        verifier.caller_of(bearer(token))
    forget_keys(verifier)
    assert [is_refused(verifier, bearer(token)) for token in tokens] == [True, True, False, False, False]


def test_a_refused_token_is_not_remembered(verifier: Verifier, keys: Path, clock: Clock) -> None:
    token = token_of_ann(NEXT)
    assert is_refused(verifier, bearer(token))
    write_whole(keys, pem_of(NEXT))
    clock.passed_s += 1.5
    assert verifier.caller_of(bearer(token)) == Caller(ANN, "ann")


@pytest.mark.parametrize("content", [None, b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n"])
def test_keys_that_cannot_be_read_are_our_fault(verifier: Verifier, keys: Path, content: bytes | None) -> None:
    keys.unlink() if content is None else keys.write_bytes(content)
    with pytest.raises(Refusal) as refused:
        verifier.caller_of(bearer(token_of_ann()))
    assert refused.value.kind is Kind.UNAVAILABLE


def test_keys_that_cannot_be_read_are_our_fault_the_second_time_too(verifier: Verifier, keys: Path) -> None:
    keys.unlink()
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            verifier.caller_of(bearer(token_of_ann()))
        assert refused.value.kind is Kind.UNAVAILABLE


def test_a_file_that_goes_bad_leaves_the_known_keys_good(verifier: Verifier, keys: Path, clock: Clock) -> None:
    verifier.caller_of(bearer(token_of_ann()))
    keys.write_bytes(b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n")
    clock.passed_s += 1.5
    with pytest.raises(Refusal, match="right now"):
        verifier.caller_of(bearer(token_of_ann(STRANGERS)))
    assert verifier.caller_of(bearer(token_of_ann(login="anna"))).login == "anna"


def test_only_keys_that_fit_the_algorithm_are_read(tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(pem_of(OURS, ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(TypeError, match="RSA"):
        load_public_keys(file)


@pytest.mark.parametrize("separator", [b"", b"\n\n", b"\r\n"])
def test_keys_are_read_by_their_thumbprint(tmp_path: Path, separator: bytes) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(pem_of(OURS) + separator + pem_of(NEXT))
    assert set(load_public_keys(file)) == {kid_of(OURS), kid_of(NEXT)}


def test_the_thumbprint_is_that_of_the_standard() -> None:
    # The key and the thumbprint of RFC 7638, section 3.1.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)), "big")
    jwk = jwk_of(rsa.RSAPublicNumbers(65537, number).public_key())
    assert (jwk["n"], jwk["e"], jwk["kty"], jwk["alg"], jwk["use"]) == (modulus, "AQAB", "RSA", "RS256", "sig")
    assert jwk["kid"] == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
