"""What the gateway reads from its environment."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from libs.settings import HttpSettings, Seconds


def _addresses(value: str) -> str:
    for address in value.split(","):
        url = urlsplit(address.strip())
        # In the clear: between the gateway and the services it is for the cluster's network to encrypt.
        if url.scheme != "http" or not url.hostname or url.username or url.path.strip("/") or url.query or url.fragment:
            raise ValueError("must be http://host:port, or several of them separated by commas")
        _ = url.port  # raises ValueError when it is none
    return value


Addresses = Annotated[str, AfterValidator(_addresses)]


class Settings(HttpSettings):
    """Where the services are: one base URL each, or several replicas separated by commas."""

    auth_url: Addresses = Field("http://127.0.0.1:8001", description="auth")
    profiles_url: Addresses = Field("http://127.0.0.1:8002", description="profiles")
    billing_url: Addresses = Field("http://127.0.0.1:8003", description="billing")
    orders_url: Addresses = Field("http://127.0.0.1:8004", description="orders")
    notifications_url: Addresses = Field("http://127.0.0.1:8005", description="notifications")
    upstream_timeout_s: Seconds = Field(10.0, description="how long a service may take to answer")

    def replicas(self) -> dict[str, tuple[str, ...]]:
        """The base URLs of each service."""
        urls = {name: text for name, text in self if name.endswith("_url")}
        return {
            name.removesuffix("_url"): tuple(url.strip().rstrip("/") for url in text.split(","))
            for name, text in urls.items()
        }
