"""Coverage by package: prints the table of what pytest-cov has measured, and fails where too few lines ran.

``python -m libs.tests.covered`` reads ``.coverage``, which ``just coverage`` has written.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Final

AT_LEAST_PERCENT: Final = 95
HELD: Final = ("libs", *sorted(tables.parent.name for tables in Path("cmd").glob("*/tables.py")))
"""What must reach it: `libs`, and every service that has tables.

The rest is measured too, but mostly runs in processes of its own, where nobody counts."""


def package_of(path: str) -> str:
    """Name the package of a file: a service, or ``libs``."""
    parts = PurePath(path).parts
    return parts[1] if parts[0] == "cmd" else parts[0]


def by_package(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Add up what coverage says of each file."""
    packages: dict[str, Counter[str]] = {}
    for path, file in files.items():
        numbers = {name: count for name, count in file["summary"].items() if isinstance(count, int)}
        packages.setdefault(package_of(path), Counter()).update(numbers)
    return packages


def percent(part: int, whole: int) -> float:
    """Say how much of the whole it is; all of it when there is nothing."""
    return 100 * part / whole if whole else 100.0


def table(packages: Mapping[str, Counter[str]]) -> Iterable[str]:
    """Make the lines to print."""
    yield f"{'package':16} {'lines':>6} {'run':>6} {'':>7} {'branches':>9} {'taken':>6} {'':>7}"
    for name, count in sorted(packages.items(), key=lambda one: (one[0] not in HELD, one[0])):
        lines = f"{count['num_statements']:6} {count['covered_lines']:6} {lines_percent(count):6.1f}%"
        taken = percent(count["covered_branches"], count["num_branches"])
        yield f"{name:16} {lines} {count['num_branches']:9} {count['covered_branches']:6} {taken:6.1f}%"


def lines_percent(count: Counter[str]) -> float:
    """Say how many of the lines of a package ran."""
    return percent(count["covered_lines"], count["num_statements"])


def main() -> None:
    """Print the table; exit with the packages of `HELD` that are below `AT_LEAST_PERCENT`."""
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"]
    measured = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if measured.returncode:
        sys.exit(measured.stdout.strip() or "nothing was measured; run `just coverage`")
    packages = by_package(json.loads(measured.stdout)["files"])
    sys.stdout.writelines(f"{line}\n" for line in table(packages))
    low = [name for name in HELD if lines_percent(packages.get(name, Counter(num_statements=1))) < AT_LEAST_PERCENT]
    if low:
        sys.exit(f"under {AT_LEAST_PERCENT} % of lines: {', '.join(low)}")


if __name__ == "__main__":
    main()
