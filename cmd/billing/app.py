"""Billing's table: what it states, what it listens to, what it answers. The composition root."""

from pathlib import Path

from billing import api, handlers
from billing.settings import Settings
from billing.store import SqlBooks
from billing.tables import METADATA
from libs.contracts.auth import UserRegistered
from libs.contracts.billing import (
    AccountCredited,
    AccountDebited,
    AccountOpened,
    PaymentAccepted,
    PaymentDeclined,
    PaymentRefunded,
)
from libs.contracts.orders import OrderCancelled, OrderPlaced
from libs.messaging.consumer import Listens
from libs.service import Service

service = Service(
    name="billing",
    folder=Path(__file__).parent,
    settings=Settings,
    store=SqlBooks,
    tables=METADATA,
    publishes=(
        AccountOpened,
        AccountCredited,
        AccountDebited,
        PaymentAccepted,
        PaymentDeclined,
        PaymentRefunded,
    ),
    listens=(
        Listens(UserRegistered, handlers.on_users_registered, answers=(AccountOpened,)),
        Listens(OrderPlaced, handlers.on_orders_placed, answers=(PaymentAccepted, PaymentDeclined)),
        Listens(OrderCancelled, handlers.on_orders_cancelled, answers=(PaymentRefunded,)),
    ),
    routes=api.ROUTES,
    tools=lambda settings: settings,
)
