"""Notifications' table: what it states, what it listens to, what it answers. The composition root."""

from pathlib import Path

from libs.contracts.auth import UserRegistered
from libs.contracts.billing import AccountCredited
from libs.contracts.notifications import LetterStored
from libs.contracts.orders import OrderCancelled, OrderConfirmed, OrderRejected
from libs.contracts.profiles import ProfileChanged
from libs.messaging.consumer import Listens
from libs.service import Service
from notifications import api, handlers
from notifications.settings import Settings
from notifications.store import SqlLetters
from notifications.tables import METADATA

service = Service(
    name="notifications",
    folder=Path(__file__).parent,
    settings=Settings,
    store=SqlLetters,
    tables=METADATA,
    publishes=(LetterStored,),
    listens=(
        Listens(UserRegistered, handlers.on_users_registered),
        Listens(ProfileChanged, handlers.on_profiles_changed, answers=(LetterStored,)),
        Listens(OrderConfirmed, handlers.on_orders_confirmed, answers=(LetterStored,)),
        Listens(OrderRejected, handlers.on_orders_rejected, answers=(LetterStored,)),
        Listens(OrderCancelled, handlers.on_orders_cancelled, answers=(LetterStored,)),
        Listens(AccountCredited, handlers.on_accounts_credited, answers=(LetterStored,)),
    ),
    routes=api.ROUTES,
    pace_s=0.1,  # no request waits for a letter
)
