"""Profiles' table: what it states, what it listens to, what it answers. The composition root."""

from pathlib import Path

from libs.contracts.auth import UserRegistered
from libs.contracts.profiles import ProfileChanged
from libs.messaging.awaiting import Awaits
from libs.messaging.consumer import Listens
from libs.service import Service
from profiles import api, handlers
from profiles.settings import Settings
from profiles.store import SqlProfiles
from profiles.tables import METADATA

service = Service(
    name="profiles",
    folder=Path(__file__).parent,
    settings=Settings,
    store=SqlProfiles,
    tables=METADATA,
    publishes=(ProfileChanged,),
    listens=(Listens(UserRegistered, handlers.on_users_registered),),
    awaits=Awaits(lambda profiles, user_ids: profiles.find_all(user_ids), done=lambda profile: profile is not None),
    routes=api.ROUTES,
)
