"""Auth's table: what it states, what it listens to, what it answers. The composition root."""

from pathlib import Path

from auth import api, handlers
from auth.settings import Settings
from auth.store import SqlUsers
from auth.tables import METADATA
from libs.chores import Restating
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountOpened
from libs.messaging.awaiting import Awaits
from libs.messaging.consumer import Listens
from libs.service import Service

service = Service(
    name="auth",
    folder=Path(__file__).parent,
    settings=Settings,
    store=SqlUsers,
    tables=METADATA,
    publishes=(UserRegistered,),
    listens=(Listens(AccountOpened, handlers.on_accounts_opened),),
    awaits=Awaits(lambda users, user_ids: users.find_all(user_ids), done=lambda user: user.account_id is not None),
    restating=Restating(handlers.restate_overdue, answered_by="billing"),
    routes=api.ROUTES,
    tools=api.Tools.of,
)
