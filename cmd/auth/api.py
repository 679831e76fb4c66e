"""What auth answers over HTTP: registration, login, and the keys that verify tokens."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr

from auth.credentials import Passwords, Tokens
from auth.domain import User
from auth.handlers import Registered, Registration, register
from auth.ports import Users
from auth.settings import Settings
from libs.contracts.auth import UserRegistered
from libs.errors import invalid_field
from libs.ids import uuid7
from libs.web.fields import Email, Line, Login, Phone, Request
from libs.web.identity import unauthenticated
from libs.web.routes import Answer, Call, Edge, Route


@dataclass(frozen=True, slots=True)
class Tools:
    """What auth's routes need besides their edge."""

    settings: Settings
    passwords: Passwords
    tokens: Tokens

    @classmethod
    def of(cls, settings: Settings) -> "Tools":
        """Read the keys and set up the threads."""
        return cls(settings, Passwords(), Tokens(settings))


AuthEdge: TypeAlias = Edge[Users, Tools]
KEYS_KEPT_S: Final = 5
"""How long others may keep the keys: a rotation waits longer than this."""

Password = Annotated[SecretStr, Field(min_length=1, max_length=128)]


class Register(Request):
    """Who wants to register."""

    login: Login
    password: Password
    email: Email
    first_name: Line | None = None
    last_name: Line | None = None
    phone: Phone | None = None


class NewUser(BaseModel):
    """Who registered. `account` is the id of the billing account, null while it is not open yet."""

    id: UUID
    login: str
    account: UUID | None


class LogIn(Request):
    """A login and its password."""

    login: Annotated[str, Field(min_length=1, max_length=64)]
    password: Password


class Token(BaseModel):
    """A bearer token, and for how many seconds it is good."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - no secret
    expires_in: int


class Jwks(BaseModel):
    """The public keys that verify tokens (RFC 7517)."""

    keys: list[dict[str, str]]


async def register_user(call: Call[Register], edge: AuthEdge) -> Answer:
    """Register a user.

    Awaits the billing account: 201 once it is open, 202 when that takes longer.
    """
    wanted = call.input
    password = wanted.password.get_secret_value()
    shortest = edge.tools.settings.password_min_length
    if len(password) < shortest:
        raise invalid_field("password", f"must have at least {shortest} characters")
    fact = UserRegistered(
        user_id=uuid7(),
        login=wanted.login,
        email=wanted.email,
        first_name=wanted.first_name,
        last_name=wanted.last_name,
        phone=wanted.phone,
    )
    command = Registration(fact, await edge.tools.passwords.hash(wanted.login, password))
    registered = await edge.execute(register, call, command, returns=Registered, subject=wanted.login)
    user = await edge.outcome(registered.user_id, User, look_first=call.replayed)
    account = user.account_id if user else None
    return Answer(201 if account else 202, NewUser(id=registered.user_id, login=registered.login, account=account))


async def log_in(call: Call[LogIn], edge: AuthEdge) -> Answer:
    """Give a token to whoever knows the password."""
    user = await _known(call.input, edge)
    if user is None:
        raise unauthenticated("login or password is wrong")
    token = edge.tools.tokens.issue(user.id, user.login)
    return Answer(
        200, Token(access_token=token, expires_in=edge.tools.tokens.lifetime_s), {"Cache-Control": "no-store"}
    )


async def _known(given: LogIn, edge: AuthEdge) -> User | None:
    async with edge.read() as users:
        user = await users.by_login(given.login) if given.login.isprintable() else None
    password_hash = user.password_hash if user else None
    return user if await edge.tools.passwords.matches(password_hash, given.password.get_secret_value()) else None


async def show_keys(_call: Call[None], edge: AuthEdge) -> Answer:
    """Show the keys that verify tokens."""
    return Answer(200, Jwks(keys=edge.tools.tokens.public_keys()), {"Cache-Control": f"max-age={KEYS_KEPT_S}"})


ROUTES = (
    Route(
        "POST",
        "/users",
        register_user,
        {201: NewUser, 202: NewUser},
        body=Register,
        public=True,
        refusals=("login_taken",),
    ),
    Route("POST", "/login", log_in, {200: Token}, body=LogIn, public=True, refusals=("unauthenticated",)),
    Route("GET", "/.well-known/jwks.json", show_keys, {200: Jwks}, public=True),
)
