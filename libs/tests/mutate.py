"""Mutation tests: change the code, one change at a time, and see that a test fails each time.

``python -m libs.tests.mutate [--workers N] [FILE…]`` runs mutmut (``[tool.mutmut]`` in ``pyproject.toml``) over files
of `SUBJECTS`, each against the tests that concern it, on SQLite. It fails when a change survives that
``mutations.toml`` does not explain, and when an explanation there is about nothing that survives any more.

mutmut names a function by the path of its file and finds it again by the name of its module; ``src`` is the only
folder it knows to leave out of the name. So it gets copies: what is in ``cmd`` and ``libs`` side by side, in ``src``.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mutmut.mutation.diff_apply import get_diff_for_mutant

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".mutants"
EXPLAINED: Final = Path(__file__).with_name("mutations.toml")

SUBJECTS: Final = {
    "cmd/billing/domain.py": ["cmd/billing/tests/test_domain.py"],
    "cmd/orders/domain.py": ["cmd/orders/tests/test_domain.py"],
    "libs/messaging/outbox.py": ["libs/messaging/tests/test_outbox.py"],
    "libs/messaging/relay.py": ["libs/messaging/tests/test_relay.py", "libs/messaging/tests/test_own_stream.py"],
    "libs/messaging/own_stream.py": ["libs/messaging/tests/test_own_stream.py"],
    "cmd/billing/store.py": ["cmd/billing/tests/test_store.py", "cmd/billing/tests/test_handlers.py"],
    "cmd/orders/store.py": ["cmd/orders/tests/test_store.py", "cmd/orders/tests/test_handlers.py"],
}
"""What can be mutated, and the tests that have to notice."""

ON_REQUEST: Final = {"libs/messaging/own_stream.py"}
"""Mutated when it is named only: not all of its survivors are killed or explained yet."""

NOTICED: Final = {"killed", "timeout", "segfault"}
"""A test failed, or never ended. Whatever else became of a mutant counts as survival."""


@dataclass(frozen=True)
class Mutation:
    """One change of one function: the lines before and after, without their indentation."""

    file: str
    function: str
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}\n  - {self.was}\n  + {self.becomes}"


@dataclass
class Outcome:
    """What became of the mutants of one file."""

    file: str
    mutants: int
    survivors: list[Mutation] = field(default_factory=list)
    took_s: float = 0.0


def copied_path(path: str) -> str:
    """Say where a file of the project is in mutmut's folder."""
    return f"src/{path.removeprefix('cmd/')}"


def prepare(folder: Path, file: str) -> None:
    """Fill a folder for mutmut with copies of the code and with its configuration for one file."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in ("cmd", "libs"):
        target = folder / ("src" if parent == "cmd" else "src/libs")
        shutil.copytree(ROOT / parent, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    tests = [copied_path(test) for test in SUBJECTS[file]]
    ours = f"only_mutate = {json.dumps([copied_path(file)])}\n"
    ours += f"pytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
    configuration = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(configuration.replace("[tool.mutmut]\n", f"[tool.mutmut]\n{ours}"))


def mutmut(folder: Path, *arguments: str) -> str:
    """Call mutmut; return what it printed. Raises `SystemExit` with it when mutmut itself failed."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"mutmut {' '.join(arguments)} failed:\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}")
    return ended.stdout


def mutation_of(file: str, name: str, difference: str) -> Mutation:
    """Read the difference that the mutant `name` makes."""
    function = name.rpartition(".")[2].partition("__mutmut_")[0].removeprefix("x")
    function = function[1:].replace("ǁ", ".")  # x_function or xǁClassǁmethod
    lines = [line for line in difference.splitlines() if not line.startswith(("---", "+++"))]
    was = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    becomes = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return Mutation(file, function, was, becomes)


def mutate(file: str, workers: int) -> Outcome:
    """Try every mutant of a file."""
    begun = time.monotonic()
    folder = FOLDER / file.removesuffix(".py").replace("/", "-")
    prepare(folder, file)
    mutmut(folder, "run", "--max-children", str(workers))
    results = [line.strip().rpartition(": ") for line in mutmut(folder, "results", "--all", "true").splitlines()]
    outcome = Outcome(file, len(results))
    for name, _, status in results:
        if status not in NOTICED:
            with contextlib.chdir(folder):
                difference = get_diff_for_mutant(name, path=copied_path(file))
            outcome.survivors.append(mutation_of(file, name, difference))
    outcome.took_s = time.monotonic() - begun
    return outcome


def explained() -> dict[Mutation, str]:
    """Read which survivors are known, and why no test can notice them."""
    entries = tomllib.loads(EXPLAINED.read_text())["survivor"]
    return {
        Mutation(entry["file"], entry["function"], entry["was"], becomes): entry["why"]
        for entry in entries
        for becomes in entry["becomes"]
    }


def table(outcomes: Iterable[Outcome], known: Collection[Mutation]) -> Iterator[str]:
    """Make the lines that say how many mutants there were, and what became of them."""
    yield f"{'file':32} {'mutants':>8} {'killed':>7} {'survived':>9} {'explained':>10} {'seconds':>8}"
    for one in outcomes:
        survived = len(one.survivors)
        fine = sum(mutation in known for mutation in one.survivors)
        yield f"{one.file:32} {one.mutants:8} {one.mutants - survived:7} {survived:9} {fine:10} {one.took_s:8.0f}"


def complaints(outcomes: Sequence[Outcome], known: Collection[Mutation]) -> Iterator[str]:
    """Say what survived without an explanation, and what is explained without having survived."""
    survivors = [mutation for one in outcomes for mutation in one.survivors]
    yield from (f"survived, and not explained: {mutation}" for mutation in survivors if mutation not in known)
    tried = {one.file for one in outcomes}
    gone = [mutation for mutation in known if mutation.file in tried and mutation not in survivors]
    yield from (f"explained, but killed or gone: {mutation}" for mutation in gone)


def main() -> None:
    """Mutate the files named on the command line, or those of `SUBJECTS` that are not on request."""
    parser = argparse.ArgumentParser(prog="just mutate", description="See that tests notice changes of the code.")
    parser.add_argument("--workers", type=int, default=2, help="mutants tried at once (2)")
    parser.add_argument("files", nargs="*", metavar="FILE", help="of: " + ", ".join(SUBJECTS))
    asked = parser.parse_args()
    unknown = [file for file in asked.files if file not in SUBJECTS]
    if unknown:
        parser.error(f"no tests are named for {', '.join(unknown)}; see SUBJECTS in libs/tests/mutate.py")
    outcomes = []
    for file in asked.files or [file for file in SUBJECTS if file not in ON_REQUEST]:
        sys.stderr.write(f"mutating {file}\n")
        outcomes.append(mutate(file, asked.workers))
    known = explained()
    wrong = list(complaints(outcomes, known))
    sys.stdout.writelines(f"{line}\n" for line in (*table(outcomes, known), *wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
