"""What a profile is. Pure: values in, values out."""

from dataclasses import dataclass, replace
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Profile:
    """How to address and reach a user. `version` counts the changes since the registration, which is 0."""

    user_id: UUID
    login: str
    email: str
    first_name: str | None
    last_name: str | None
    phone: str | None
    version: int = 0


def change(profile: Profile, changes: dict[str, str | None]) -> Profile | None:
    """Apply changes; None when nothing is different afterwards."""
    changed = replace(profile, **changes)  # type: ignore[arg-type] # names and types were checked with the request
    return None if changed == profile else replace(changed, version=profile.version + 1)
