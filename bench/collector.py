"""A collector of traces that takes everything and keeps nothing, in a process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from libs.local.servers import free_port
from libs.local.supervisor import die_with_parent

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def collecting() -> AsyncIterator[dict[str, str]]:
    """Run a collector until the end of the block; give the settings that have traces sent to it."""
    port = free_port()
    command = (sys.executable, "-m", "bench.collector", str(port))
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[1], preexec_fn=die_with_parent)
    try:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    finally:
        process.terminate()
        await process.wait()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
            await reader.readexactly(int(length or 0))
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main(port: int) -> None:
    server = await asyncio.start_server(_take, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
