"""What auth reads from its environment."""

from pathlib import Path

from pydantic import Field

from libs.settings import HttpSettings, ServiceSettings


class KeySettings(HttpSettings):
    """The settings of keys and tokens: all that a rotation needs."""

    jwt_private_key: Path = Field(Path("etc/keys/jwt-private.pem"), description="PEM file with the signing key")
    token_lifetime_s: int = Field(3600, ge=60, le=86_400, description="how long a token is good for")


class Settings(KeySettings, ServiceSettings):
    """The settings of every service, and those of passwords and tokens."""

    password_min_length: int = Field(1, ge=1, le=128, description="shortest password a new user may choose")
