"""What every service that listens says about a message it cannot handle."""

from pydantic import BaseModel, ConfigDict, Field


class DeadLetter(BaseModel):
    """A message was set aside: no repetition will mend it, and it is kept until somebody attends to it.

    Announced on `<service>.dead.<entity>.<id>`, which continues the subject of the message.
    """

    model_config = ConfigDict(frozen=True)

    event_id: str = Field(
        description="The `ce-id` of the message, or its place in the stream when it has none.",
        examples=["01a204fb-cc89-7894-b27f-4f0d1cf51a45"],
    )
    subject: str = Field(
        description="Where the message was published.",
        examples=["orders.order.placed.01a204fb-cc89-7894-b27f-4f0d1cf51a45"],
    )
    error: str = Field(
        description="Why it was set aside, for people.",
        examples=["Refusal: unreadable_message: not a orders.order.placed: price: Field required"],
    )
