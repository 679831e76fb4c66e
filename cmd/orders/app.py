"""Orders' table: what it states, what it listens to, what it answers. The composition root."""

from pathlib import Path

from libs.chores import Restating
from libs.contracts.billing import PaymentAccepted, PaymentDeclined, PaymentRefunded
from libs.contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from libs.messaging.awaiting import Awaits
from libs.messaging.consumer import Listens
from libs.service import Service
from libs.telemetry.gauges import Gauge
from orders import api, handlers
from orders.settings import Settings
from orders.store import SqlOrders
from orders.tables import METADATA

service = Service(
    name="orders",
    folder=Path(__file__).parent,
    settings=Settings,
    store=SqlOrders,
    tables=METADATA,
    publishes=(OrderPlaced, OrderConfirmed, OrderRejected, OrderCancelled),
    listens=(
        Listens(PaymentAccepted, handlers.on_payments_accepted, answers=(OrderConfirmed,)),
        Listens(PaymentDeclined, handlers.on_payments_declined, answers=(OrderRejected,)),
        Listens(PaymentRefunded, handlers.on_payments_refunded),
    ),
    awaits=Awaits(lambda orders, order_ids: orders.find_all(order_ids), done=lambda order: order.settled),
    hears=("orders.order.confirmed.*", "orders.order.rejected.*"),
    restating=Restating(handlers.restate_overdue, answered_by="billing"),
    gauges=(
        Gauge("orders_oldest_pending_seconds", "Age of the oldest order without outcome", handlers.oldest_pending_s),
    ),
    routes=api.ROUTES,
)
