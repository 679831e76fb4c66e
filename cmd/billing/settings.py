"""What billing reads from its environment."""

from pydantic import Field

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """The settings of every service, and the one currency of the accounts."""

    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217 code; shown, never converted")
