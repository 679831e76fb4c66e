"""What processes and the disk cost is read from the kernel."""

import asyncio
import os
import socket
from pathlib import Path

from bench.processes import cpu_s, disk_flushes, family, flushes_in, listener, machine_cpu_s, memory, snapshot


async def test_a_process_answers_for_its_children() -> None:
    before, machine = snapshot(), machine_cpu_s()
    busy = "import time\nbegan = time.process_time()\nwhile time.process_time() - began < 0.3: pass\nprint(1)\ninput()"
    process = await asyncio.create_subprocess_exec(
        "python3", "-c", busy, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    after = snapshot()
    assert process.pid in family(os.getpid(), after)
    assert cpu_s(os.getpid(), after) - cpu_s(os.getpid(), before) >= 0.29
    assert machine_cpu_s() - machine >= 0.29
    assert memory(process.pid, after) > 1_000_000
    await process.communicate(b"\n")
    gone = snapshot()
    assert (family(process.pid, gone), cpu_s(process.pid, gone), memory(process.pid, gone)) == ([], 0, 0)


def test_who_listens_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listener(port) == os.getpid()
    assert listener(port) is None


def test_flushes_are_the_last_counter_but_one() -> None:
    before_5_5 = "59631 13267 2933130 14910 522774 82451 12820656 49057 0 34256 77334 73513 130 5536304 5343"
    assert flushes_in(f"{before_5_5} 7 8") == 7
    assert flushes_in(before_5_5) is None
    assert flushes_in("") is None


def test_flushes_of_the_disk_are_counted_or_not_known(tmp_path: Path) -> None:
    before = disk_flushes(tmp_path)
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    after = disk_flushes(tmp_path)
    assert (before is None) == (after is None)
    assert before is None or after is None or after >= before  # a device that keeps nothing back needs no flush
    assert disk_flushes(Path("/proc")) is None
