"""What processes cost: CPU time and memory, as the kernel counts them. Linux only."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_LISTENING: Final = "0A"
_FLUSHES: Final = 15
"""Of the fields of /sys/dev/block/M:N/stat: how many flushes the device has completed."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was: who started it, and its CPU seconds so far, with those of children that have ended."""

    parent: int
    cpu_s: float


Snapshot = Mapping[int, Process]


def snapshot() -> Snapshot:
    """Look at every process of the machine once."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            cpu_s = sum(int(number) for number in fields[11:15]) * _TICK_S
            found[int(folder.name)] = Process(int(fields[1]), cpu_s)
    return found


def family(pid: int, seen: Snapshot) -> list[int]:
    """A process and all its descendants; nobody when it is gone."""
    children: dict[int, list[int]] = {}
    for each, process in seen.items():
        children.setdefault(process.parent, []).append(each)
    found = [pid] if pid in seen else []
    for each in found:
        found.extend(children.get(each, []))
    return found


def cpu_s(pid: int, seen: Snapshot) -> float:
    """CPU seconds that a family of processes had used."""
    return sum(seen[each].cpu_s for each in family(pid, seen))


def memory(pid: int, seen: Snapshot) -> int:
    """Bytes that a family of processes has in memory now; what several share counts once."""
    return sum(_memory(each) for each in family(pid, seen))


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine together have used since it started."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return (sum(numbers) - idle) * _TICK_S


def listener(port: int) -> int | None:
    """Find who listens on a port of this machine; None: nobody, or somebody whose files we may not look at."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _lines(table)[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    holders = [pid for pid in snapshot() if sockets & _open_files(pid)]
    return min(holders, default=None)


def disk_flushes(path: Path) -> int | None:
    """Count the flushes of the disk that a folder lies on, by whomever; None where the kernel does not say."""
    device = path.stat().st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if (folder / "partition").exists():
        folder = folder.resolve().parent  # flushes are of the whole disk
    return flushes_in(" ".join(_lines(f"{folder}/stat")))


def flushes_in(stat: str) -> int | None:
    """Read the flushes from the counters of a device; None: its kernel, or the device, has no such counter."""
    fields = stat.split()
    return int(fields[_FLUSHES]) if len(fields) > _FLUSHES else None


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(link))  # noqa: PTH115 - `socket:[1]` is no path
    except OSError:
        pass
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _memory(pid: int) -> int:
    """The proportional set size: what n processes share counts an nth with each."""
    for line in _lines(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
