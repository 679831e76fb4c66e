"""The services behind the gateway: which replica to ask, and what to do when one does not answer."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import structlog
from yarl import URL

from libs.errors import unavailable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Upstream:
    """Sends requests to the replicas of the services in turn, over connections that are kept."""

    def __init__(self, replicas: Mapping[str, tuple[str, ...]], *, timeout_s: float, requests_at_most: int) -> None:
        self._replicas = dict(replicas)
        self._turns = {service: itertools.cycle(urls) for service, urls in replicas.items()}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=2)
        # Nobody waits for a connection: there is one for each request, and some for questions about health.
        self._connections = requests_at_most + 4 * sum(map(len, replicas.values()))
        self._session: aiohttp.ClientSession | None = None

    @property
    def services(self) -> tuple[str, ...]:
        """The services there are."""
        return tuple(self._replicas)

    async def open(self) -> None:
        """Make the pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30), auto_decompress=False
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def send(self, service: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Send a request; a second time, to the next replica, when the first attempt's connection broke.

        Sending twice is safe: reads and PUTs repeat harmlessly, and the caller gives every POST an idempotency
        key. Raises `Refusal` (unavailable) when nobody answers in time.
        """
        for last in (False, True):
            base = next(self._turns[service])
            try:
                return await self._once(base, method, path, headers, body)
            except (
                aiohttp.ClientConnectionError,
                asyncio.IncompleteReadError,
                aiohttp.ClientPayloadError,
            ) as error:
                if last or isinstance(error, aiohttp.ServerTimeoutError):
                    log.warning("service does not answer", upstream=service, error=str(error))
                    raise unavailable(service) from error
            except TimeoutError as error:
                log.warning("service took too long", upstream=service, path=path)
                raise unavailable(service) from error
        raise AssertionError("unreachable")

    async def ready(self, service: str) -> bool:
        """Whether any replica of a service says that it is ready."""
        answers = await asyncio.gather(*(self._ready(url) for url in self._replicas[service]))
        return any(answers)

    async def _ready(self, base: str) -> bool:
        try:
            async with asyncio.timeout(2):
                return (await self._once(base, "GET", "/readyz", {}, None)).status == HTTPStatus.OK
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _once(self, base: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        assert self._session is not None
        request = self._session.request(
            # encoded: the path goes on as it came, so that "/orders/../readyz" reaches nothing that it should not.
            method,
            URL(base + path, encoded=True),
            headers=headers,
            data=body,
            timeout=self._timeout,
            allow_redirects=False,
        )
        async with request as response:
            return Reply(response.status, response.headers, await response.read())
