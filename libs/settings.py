"""Settings: environment variables, read once at start; a wrong one stops the start with its name."""

import sys
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.storage.database import driver_url

Seconds = Annotated[float, Field(gt=0, le=3600)]


def _web_address(value: str | None) -> str | None:
    if not value:
        return None  # set to nothing is not set, says OpenTelemetry
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be http://host:port or https://host:port")
    _ = url.port  # raises ValueError when it is none
    return value.rstrip("/")


Collector = Annotated[str | None, AfterValidator(_web_address)]
"""Base URL of an OpenTelemetry collector."""


class HttpSettings(BaseSettings):
    """What every process that answers HTTP reads."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told otherwise")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    requests_at_most: int = Field(1000, ge=1, description="requests under way at a time; beyond it 503 at once")
    connections_at_most: int = Field(2000, ge=1, description="connections at a time; beyond it idle ones are closed")
    jwt_public_keys: Path = Field(
        Path("etc/keys/jwt-public.pem"),
        description="PEM file with the public keys that verify tokens (one or two)",
    )
    jwt_issuer: str = Field("orderly", description="the `iss` that tokens must carry")
    jwt_audience: str = Field("orderly", description="the `aud` that tokens must carry")
    otel_exporter_otlp_endpoint: Collector = Field(
        None, description="base URL of an OpenTelemetry collector (OTLP over HTTP); without it nothing is traced"
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="headers for the collector: name=value, separated by commas"
    )
    otel_service_name: str | None = Field(None, description="what to be called in traces; the service's own name")
    otel_resource_attributes: str | None = Field(
        None, description="more about this process in traces: name=value, separated by commas"
    )
    traces_per_second: float = Field(
        20.0, ge=0, le=100_000, description="traces begun by this process in a second, at most; the rest is not traced"
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment. Exits with one sentence a variable when something is missing or wrong."""
        try:
            return cls()
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                name = "_".join(str(part) for part in problem["loc"]).upper()
                sys.stderr.write(f"setting {name}: {problem['msg']}\n")
            raise SystemExit(2) from None


class ServiceSettings(HttpSettings):
    """What every service with a database and a place on the bus reads."""

    database_url: SecretStr = Field(description="sqlite:///path or postgresql://user:password@host/database")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr) -> SecretStr:
        driver_url(value.get_secret_value())
        return value

    nats_url: str = Field("nats://127.0.0.1:4222", description="one or more servers, separated by commas")
    nats_user: str | None = Field(None, description="user name on the NATS servers, when they ask for one")
    nats_password: SecretStr | None = Field(None, description="password of that user")
    fingerprint_key: SecretStr = Field(
        min_length=16, description="secret that hashes idempotency keys and bodies; the same for all replicas"
    )
    patience_s: Seconds = Field(2.0, description="how long a request waits for an answer before it says 202")
    stream_replicas: int = Field(1, ge=1, le=5, description="copies of this service's stream (3 in a cluster)")
    stream_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="room for this service's stream; may grow, is never lowered"
    )
    pool_size: int = Field(8, ge=1, le=64, description="database connections, PostgreSQL")
    batch_limit: int = Field(256, ge=1, le=1000, description="messages or requests in one unit of work, at most")
