"""What profiles answers over HTTP, about the caller's own profile."""

from typing import TypeAlias

from pydantic import BaseModel

from libs.errors import Kind, Refusal, invalid_field, unavailable
from libs.web.fields import Email, Line, Login, Phone, Request
from libs.web.routes import Answer, Call, Edge, Route
from profiles import domain
from profiles.handlers import Change, change_profiles
from profiles.ports import Profiles

ProfilesEdge: TypeAlias = Edge[Profiles]


class ChangeProfile(Request):
    """What to change. A field that is not given stays as it is; null clears an optional one."""

    login: Login | None = None
    email: Email | None = None
    first_name: Line | None = None
    last_name: Line | None = None
    phone: Phone | None = None


class Profile(BaseModel):
    """A profile."""

    login: str
    email: str
    first_name: str | None
    last_name: str | None
    phone: str | None

    @classmethod
    def of(cls, profile: domain.Profile) -> "Profile":
        """Show a profile."""
        return cls(
            login=profile.login,
            email=profile.email,
            first_name=profile.first_name,
            last_name=profile.last_name,
            phone=profile.phone,
        )


async def show_profile(call: Call[None], edge: ProfilesEdge) -> Answer:
    """Show the caller's profile; right after a registration, wait for it to arrive."""
    _own(call)
    return Answer(200, Profile.of(await _arrived(call, edge)))


async def change_profile(call: Call[ChangeProfile], edge: ProfilesEdge) -> Answer:
    """Change the caller's profile."""
    _own(call)
    changes = call.input.model_dump(exclude_unset=True)
    if changes.pop("login", call.caller.login) != call.caller.login:
        raise invalid_field("login", "cannot be changed")
    if changes.get("email", "") is None:
        raise invalid_field("email", "cannot be cleared")
    await _arrived(call, edge)
    wanted = Change(call.caller.user_id, changes)
    return Answer(200, Profile.of(await edge.execute(change_profiles, call, wanted, returns=domain.Profile)))


def _own(call: Call[ChangeProfile] | Call[None]) -> None:
    if call.path["login"] != call.caller.login:
        raise Refusal("foreign_profile", "this is somebody else's profile", Kind.FORBIDDEN)


async def _arrived(call: Call[ChangeProfile] | Call[None], edge: ProfilesEdge) -> domain.Profile:
    profile = await edge.outcome(call.caller.user_id, domain.Profile, look_first=True)
    if profile is None:
        raise unavailable("this profile")
    return profile


ROUTES = (
    Route("GET", "/profiles/{login}", show_profile, {200: Profile}, refusals=("foreign_profile",)),
    Route(
        "PUT",
        "/profiles/{login}",
        change_profile,
        {200: Profile},
        body=ChangeProfile,
        refusals=("foreign_profile",),
    ),
)
