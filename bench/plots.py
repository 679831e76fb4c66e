"""."""

from typing import Any


def of_orders(_results: Any) -> dict[str, str]:
    """Nothing yet."""
    return {}
