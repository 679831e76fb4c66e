"""What every service that listens says about a message it cannot handle."""

from pydantic import BaseModel, ConfigDict, Field


class DeadLetter(BaseModel):
    """A message was set aside: no repetition will mend it, and it is kept until somebody attends to it.

    Announced on `<service>.dead.<entity>.<id>`, which continues the subject of the message.
    """

    model_config = ConfigDict(frozen=True)

    event_id: str = Field(description="The `ce-id` of the message, or its place in the stream when it has none.")
    subject: str = Field(description="Where the message was published.")
    error: str = Field(description="Why it was set aside, for people.")
