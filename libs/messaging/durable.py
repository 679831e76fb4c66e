"""A durable consumer on the server: made by whoever pulls from it, and made anew when its stream was."""

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError, ServerError, ServiceUnavailableError

from libs.messaging.bus import Durable

INCARNATION: Final = "orderly.incarnation"
"""The key in the metadata of streams, and of durable consumers, under which their incarnation stands."""

ACK_WAIT_S: Final = 30.0
MAX_ACK_PENDING: Final = 10_000
REQUEST_TIMEOUT_S: Final = 5.0

ANSWER_WITHIN_S: Final = 2.0
"""How long a question is worth waiting for. Only the leader of a stream or consumer answers, so while several servers
elect another, which takes four to nine seconds, questions vanish; who waits on would be that much later."""

REMOVED_S: Final = 0.25
"""For how long the server may still be removing the files of a consumer after it has said that it is deleted."""

_CONSUMER_CREATE_ERROR: Final = 10012
"""The server's `err_code` for whatever kept it from making or updating a consumer, its own file errors included."""

log = structlog.get_logger()


def incarnation_of(metadata: Mapping[str, str] | None) -> int:
    """Read an incarnation; 0 when there is none."""
    text = (metadata or {}).get(INCARNATION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


class DurableConsumer:
    """One durable consumer, as its server knows it. Several replicas may assure themselves of it at once."""

    def __init__(self, client: Client, durable: Durable) -> None:
        self._client = client
        self._durable = durable
        self._at = f"{durable.stream}.{durable.name}"
        self._up_to_date = False

    async def assured(self) -> tuple[int, float]:
        """Make sure that the consumer is there, and of its stream's incarnation.

        Returns the incarnation, and for how many seconds nobody should pull yet. Raises `NotFoundError` without a
        stream, and what nats-py raises when servers are away.
        """
        stream = await self._ask(f"STREAM.INFO.{self._durable.stream}", within_s=ANSWER_WITHIN_S)
        incarnation = incarnation_of(stream["config"].get("metadata"))
        there = await self._info()
        if there is None and self._up_to_date:  # a replica has deleted it just now: nothing is made among its ruins
            await asyncio.sleep(REMOVED_S)
            there = await self._info()
        if there is not None and incarnation_of(there["config"].get("metadata")) != incarnation:
            log.warning("consumer is of another incarnation of its stream; made anew", consumer=self._at)
            await self._ask(f"CONSUMER.DELETE.{self._at}")
            there = None
        if there is None or not self._up_to_date:
            await self._created(incarnation)
            there = await self._info()
        self._up_to_date = True
        return incarnation, _rest_s(there, incarnation) if there else 0.0

    async def _created(self, incarnation: int) -> None:
        """Create or update the consumer, also where the server has it in memory but has lost its files.

        Made while the server was still removing its predecessor's files, a consumer loses its own with them: it
        delivers, but every update is refused and a restart forgets it.
        """
        try:
            await self._create(incarnation)
        except ServerError as error:
            if error.err_code != _CONSUMER_CREATE_ERROR or "no such file" not in (error.description or ""):
                raise
            log.warning("consumer has lost its files; made anew", consumer=self._at)
            await self._ask(f"CONSUMER.DELETE.{self._at}")
            await self._create(incarnation)

    async def _create(self, incarnation: int) -> None:
        """Create it, or update what it is to deliver. The first message it delivers is the first there is."""
        config = ConsumerConfig(
            name=self._durable.name,
            durable_name=self._durable.name,
            filter_subjects=list(self._durable.subjects),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_deliver=-1,  # a spent max_deliver is silence; what cannot be handled becomes a dead letter instead
            max_ack_pending=MAX_ACK_PENDING,
            metadata={INCARNATION: str(incarnation)},
        )
        body = {"stream_name": self._durable.stream, "config": config.as_dict()}
        await self._ask(f"CONSUMER.CREATE.{self._at}", body)

    async def _info(self) -> dict[str, Any] | None:
        try:
            return await self._ask(f"CONSUMER.INFO.{self._at}", within_s=ANSWER_WITHIN_S)
        except NotFoundError:
            return None

    async def _ask(self, what: str, body: Any = None, *, within_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
        # Not nats-py's own methods: their answers lack the server's clock.
        try:
            reply = await self._client.request(
                f"$JS.API.{what}", json.dumps(body).encode() if body else b"", timeout=within_s
            )
        except NoRespondersError as error:
            raise ServiceUnavailableError from error
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            raise APIError.from_error(answer["error"])
        return answer


def _rest_s(info: Mapping[str, Any], incarnation: int) -> float:
    """Say for how long a consumer made for a stream made anew must rest.

    A replica that has not noticed yet may still acknowledge what it got of the stream before, and that would count
    for other messages at the same sequences. Its unit of work has ended, one way or another, after one `ack_wait`.
    """
    if incarnation <= 1:
        return 0.0
    age = datetime.fromisoformat(info["ts"]) - datetime.fromisoformat(info["created"])
    return max(0.0, (timedelta(seconds=ACK_WAIT_S) - age).total_seconds())
