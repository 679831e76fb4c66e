"""The services there are. A new one is a line here."""

from typing import Any, Final

import auth.app
import billing.app
import notifications.app
import orders.app
import profiles.app
from libs.service import Service

SERVICES: Final[tuple[Service[Any, Any], ...]] = (
    auth.app.service,
    profiles.app.service,
    billing.app.service,
    orders.app.service,
    notifications.app.service,
)

NAMES: Final = tuple(service.name for service in SERVICES)
