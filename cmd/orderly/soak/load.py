"""The load: so many people at a time; who leaves is followed by somebody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import aiohttp

from orderly.soak.books import disagreements
from orderly.soak.people import ANSWERED_WITHIN_S, LOOK_EVERY_S, Contradiction, Notes, Person

AT_A_TIME: Final = 12
COMPARED_AT_A_TIME: Final = 8


class Load:
    """Everybody who has come, and what they have noted."""

    def __init__(self, session: aiohttp.ClientSession, url: str, seed: int, notes: Notes) -> None:
        self.notes = notes
        self.everybody: list[Person] = []
        self._session = session
        self._url = url
        self._seed = seed

    async def run(self, stop: asyncio.Event) -> None:
        """Have people come and go until it is enough; everybody finishes what they are doing."""
        await asyncio.gather(*(self._place(stop) for _ in range(AT_A_TIME)))

    async def settle(self) -> None:
        """Wait until nobody has an order of unknown outcome."""
        while waiting := [person for person in self.everybody if person.pending]:
            for person in waiting:
                await person.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def compare(self, letters_within_s: float) -> None:
        """Compare what everybody was told with what everybody is told now; note what differs."""
        turns = asyncio.Semaphore(COMPARED_AT_A_TIME)

        async def one(person: Person) -> None:
            async with turns:
                try:
                    async with asyncio.timeout(letters_within_s + ANSWERED_WITHIN_S):
                        found = await disagreements(person, letters_within_s)
                except TimeoutError:
                    found = [f"{person.login}: got no answer any more"]
                self.notes.contradictions += found

        await asyncio.gather(*(one(person) for person in self.everybody))

    async def _place(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            chance = Random(f"person {self._seed} {len(self.everybody)}")  # noqa: S311 - may be the same again
            person = Person(self._session, self._url, chance, self.notes)
            self.everybody.append(person)
            try:
                await person.live(stop)
            except Contradiction as why:
                self.notes.contradictions.append(f"{person.login}: {why}")


@asynccontextmanager
async def load_on(url: str, seed: int, notes: Notes) -> AsyncIterator[Load]:
    """Make people of a system."""
    timeout = aiohttp.ClientTimeout(total=ANSWERED_WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Load(session, url, seed, notes)
