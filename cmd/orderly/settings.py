"""What the operator's program reads from its environment."""

import os
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.settings import Collector


class Settings(BaseSettings):
    """Where a system on one machine keeps its data, and where it listens; loopback only."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    data_dir: Path = Field(Path(".data"), description="databases, the broker's store, keys and logs")
    gateway_port: int = Field(8080, ge=1, le=65535)
    nats_port: int = Field(4222, ge=1, le=65535)
    minikube_profile: str = Field("minikube", min_length=1, description="which minikube `up` and `down` mean")
    otel_exporter_otlp_endpoint: Collector = Field(None, description="passed on to the services; checked before")

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment. Exits with one sentence a variable when something is wrong."""
        try:
            return cls()
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                name = "_".join(str(part) for part in problem["loc"]).upper()
                sys.stderr.write(f"setting {name}: {problem['msg']}\n")
            raise SystemExit(2) from None

    def database_url(self, service: str) -> str | None:
        """Where the environment says that a service's database is: ``<SERVICE>_DATABASE_URL``."""
        return os.environ.get(f"{service.upper()}_DATABASE_URL")
