"""Run the gateway."""

import argparse
import asyncio

from gateway.app import make_gateway
from gateway.settings import Settings
from libs.service import run_process
from libs.web.server import serving


def main() -> None:
    """Run the program."""
    argparse.ArgumentParser(prog="gateway", description="The client API gateway of Orderly.").parse_args()
    settings = Settings.from_environment()

    async def work(stop: asyncio.Event) -> None:
        async with serving(make_gateway(settings), settings):
            await stop.wait()

    run_process("gateway", settings, work)


if __name__ == "__main__":
    main()
