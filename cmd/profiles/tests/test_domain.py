"""What a change makes of a profile."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.ids import uuid7
from profiles.domain import Profile, change

NAMES = ("email", "first_name", "last_name", "phone")
OPTIONAL = st.none() | st.sampled_from(["Ann", "Bob"])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "email": st.sampled_from(["ann@example.org", "bob@example.org"]),
        "first_name": OPTIONAL,
        "last_name": OPTIONAL,
        "phone": OPTIONAL,
    },
)


def profile_of_ann() -> Profile:
    return Profile(uuid7(), "ann", "ann@example.org", "Ann", None, None)


@settings(deadline=None, max_examples=80)
@given(st.lists(CHANGES, max_size=6))
def test_a_version_counts_what_really_changed(series: list[dict[str, str | None]]) -> None:
    profile = profile_of_ann()
    for changes in series:
        after = change(profile, changes)
        wanted = {
            name: changes.get(name, getattr(profile, name)) for name in ("email", "first_name", "last_name", "phone")
        }
        if after is None:
            assert all(getattr(profile, name) == value for name, value in wanted.items())
        else:
            assert after == replace(profile, **wanted, version=profile.version + 1)
            assert replace(after, version=profile.version) != profile
            profile = after


def test_null_clears_and_what_is_not_named_stays() -> None:
    profile = replace(profile_of_ann(), phone="+49 1")
    after = change(profile, {"first_name": None})
    assert after == replace(profile, first_name=None, version=1)
