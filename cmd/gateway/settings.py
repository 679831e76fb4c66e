"""What the gateway reads from its environment."""

from pydantic import Field

from libs.settings import HttpSettings, Seconds


class Settings(HttpSettings):
    """Where the services are: one base URL each, or several replicas separated by commas."""

    auth_url: str = Field("http://127.0.0.1:8001", description="auth")
    profiles_url: str = Field("http://127.0.0.1:8002", description="profiles")
    billing_url: str = Field("http://127.0.0.1:8003", description="billing")
    orders_url: str = Field("http://127.0.0.1:8004", description="orders")
    notifications_url: str = Field("http://127.0.0.1:8005", description="notifications")
    upstream_timeout_s: Seconds = Field(10.0, description="how long a service may take to answer")

    def replicas(self) -> dict[str, tuple[str, ...]]:
        """The base URLs of each service."""
        urls = {name: text for name, text in self if name.endswith("_url")}
        return {
            name.removesuffix("_url"): tuple(url.strip().rstrip("/") for url in text.split(","))
            for name, text in urls.items()
        }
