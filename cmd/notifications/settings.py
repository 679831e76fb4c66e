"""What notifications reads from its environment."""

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """The settings of every service."""
