"""What processes cost: CPU time and memory, as the kernel counts them. Linux only."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and those that it started have used so far; `memory` in bytes, not shared with others."""

    cpu_s: float
    memory: int


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, []))
    return found


def usage(pid: int) -> Usage:
    """What a family of processes has used; those that have ended and were waited for count with their parent."""
    cpu, memory = 0.0, 0
    for each in family(pid):
        if fields := _stat(each):
            cpu += sum(int(number) for number in fields[11:15]) * _TICK_S
            memory += _memory(each)
    return Usage(cpu, memory)


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine together have used since it started."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return (sum(numbers) - idle) * _TICK_S


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
