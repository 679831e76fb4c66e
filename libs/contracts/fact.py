"""What every fact on the bus has in common."""

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Fact(BaseModel):
    """Something that happened, stated once by the service that owns it.

    The payload on the wire is this model as plain JSON; what describes the message (id, time, trace) travels
    in headers. Consumers ignore fields they do not know; producers never remove or retype one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]
    """``<service>.<entity>.<fact in the past tense>``: the subject without its last token, and `ce-type`."""

    keyed_by: ClassVar[tuple[str, ...]] = ("user_id",)
    """The field whose value is the subject's last token, what the fact is about: of several, the first that is set."""

    @property
    def key_field(self) -> str:
        """The name of the field that says what this fact is about."""
        for name in self.keyed_by:
            if getattr(self, name) is not None:
                return name
        raise ValueError(f"a {self.type} is about nothing")

    @property
    def key(self) -> UUID:
        """The id of what the fact is about."""
        key: UUID = getattr(self, self.key_field)
        return key

    @property
    def subject(self) -> str:
        """The NATS subject this fact is published on."""
        return f"{self.type}.{self.key}"


def publisher_of(fact: type[Fact]) -> str:
    """Name the service that states `fact`: its type's first token."""
    return fact.type.split(".", 1)[0]


def stream_of(service: str) -> str:
    """Name the JetStream stream that keeps what `service` states."""
    return service.upper()
