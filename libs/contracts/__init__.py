"""The messages: one pydantic model per fact, one module per publisher."""

from libs.contracts.fact import Fact, publisher_of, stream_of

__all__ = ["Fact", "publisher_of", "stream_of"]
