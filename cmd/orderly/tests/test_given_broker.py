"""A system on a NATS server that runs already, and asks for no name."""

from orderly.tests.systems import customers, running_system


async def test_a_system_on_a_given_server_starts_none(nats_url: str) -> None:
    async with running_system("sqlite", nats_url=nats_url) as system, customers(system) as customer:
        assert "nats" not in system.supervisor.labels
        assert system.nats_url == nats_url
        ann = await customer().arrive("500")
        _, order = await ann.order("250")
        assert order["status"] == "confirmed"
