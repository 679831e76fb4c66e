"""The style of the house, as tests: what may import what, how long things are, what is said beside a suppression.

Each test lists the offenders by file and line; an empty list passes.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import libs

ROOT: Final = Path(libs.__file__).parent.parent
STANDARD: Final = sys.stdlib_module_names
FUNCTION_LINES: Final = 60
FILE_LINES: Final = 400
VAGUE: Final = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
WAITING: Final = Path("libs/tests/eventually.py")
"""The one place where tests may wait: for a condition, with a deadline."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def sources() -> dict[Path, str]:
    """Read every Python file of the project, by its path from the root."""
    files = sorted(path for folder in ("cmd", "libs") for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): path.read_text() for path in files}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(sources()[path], str(path))


def is_test(path: Path) -> bool:
    return "tests" in path.parts


def is_migration(path: Path) -> bool:
    return "migrations" in path.parts


def owner_of(path: Path) -> str:
    """Name the package a file belongs to: a service, or ``libs``."""
    return path.parts[1] if path.parts[0] == "cmd" else "libs"


SERVICES: Final = {path.name for path in (ROOT / "cmd").iterdir() if path.is_dir() and path.name != "__pycache__"}


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    """List what a file imports, with its line: ``from a import b`` counts as ``a.b``."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(path: Path, *allowed: str) -> list[str]:
    """List the imports of a file that are neither of the standard library nor `allowed`."""
    return [
        f"{path}:{line} imports {name}"
        for line, name in imports_of(path)
        if name.split(".")[0] not in STANDARD and not any(f"{name}.".startswith(f"{one}.") for one in allowed)
    ]


def files_named(name: str) -> list[Path]:
    found = [path for path in sources() if path.name == name and path.parts[0] == "cmd" and not is_test(path)]
    assert found, f"there is no {name} to check"
    return found


def test_the_rules_see_the_project() -> None:
    assert {"auth", "billing", "gateway", "notifications", "orderly", "orders", "profiles"} <= SERVICES
    assert {Path("cmd/billing/domain.py"), Path("libs/money.py"), Path("libs/tests/test_tidy.py")} <= set(sources())


def test_domains_import_the_standard_library_only() -> None:
    assert [wrong for path in files_named("domain.py") for wrong in wrong_imports(path)] == []


def test_ports_import_the_domain_and_libs_only() -> None:
    offenders = []
    for path in files_named("ports.py"):
        offenders += wrong_imports(path, f"{owner_of(path)}.domain", "libs")
    assert offenders == []


def test_handlers_import_domain_ports_and_libs_only() -> None:
    infrastructure = ("libs.storage", "libs.service", "libs.web.app", "libs.messaging.jetstream")
    offenders = []
    for path in files_named("handlers.py"):
        service = owner_of(path)
        offenders += wrong_imports(path, f"{service}.domain", f"{service}.ports", "libs")
        offenders += [
            f"{path}:{line} imports {name}" for line, name in imports_of(path) if name.startswith(infrastructure)
        ]
    assert offenders == []


def test_apis_do_not_reach_past_their_ports() -> None:
    offenders = []
    for path in files_named("api.py"):
        beyond = (f"{owner_of(path)}.store", f"{owner_of(path)}.tables", "sqlalchemy", "libs.storage")
        offenders += [f"{path}:{line} imports {name}" for line, name in imports_of(path) if name.startswith(beyond)]
    assert offenders == []


def test_libs_never_import_a_service() -> None:
    offenders = [
        f"{path}:{line} imports {name}"
        for path in sources()
        if owner_of(path) == "libs"
        for line, name in imports_of(path)
        if name.split(".")[0] in SERVICES
    ]
    assert offenders == []


def test_services_never_import_each_other_and_only_the_operators_program_imports_them() -> None:
    offenders = [
        f"{path}:{line} imports {name}"
        for path in sources()
        if owner_of(path) not in ("libs", "orderly")
        for line, name in imports_of(path)
        if name.split(".")[0] in SERVICES - {owner_of(path)}
    ]
    assert offenders == []


def test_only_tests_import_tests() -> None:
    offenders = [
        f"{path}:{line} imports {name}"
        for path in sources()
        if not is_test(path)
        for line, name in imports_of(path)
        if {"tests", "pytest", "hypothesis"} & set(name.split("."))
    ]
    assert offenders == []


def definitions(path: Path) -> Iterator[Definition]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Definition))


def test_loops_that_only_a_cancellation_ends_look_whether_there_was_one() -> None:
    offenders = [
        f"{path}:{node.lineno} says `while True`, see libs/tasks.py"
        for path in sources()
        if not is_test(path) and owner_of(path) != "orderly" and not path.is_relative_to("libs/local")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant)
        if any(isinstance(inner, ast.Await) for inner in ast.walk(node))
        if not any(isinstance(inner, ast.Return | ast.Break) for inner in ast.walk(node))
    ]
    assert offenders == []


def test_no_function_is_longer_than_a_screen() -> None:
    offenders = [
        f"{path}:{node.lineno} {node.name}: {length} lines"
        for path in sources()
        if not is_test(path) and not is_migration(path)
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert offenders == []


def test_no_file_is_about_more_than_one_thing() -> None:
    lengths = {path: len(text.splitlines()) for path, text in sources().items() if not is_test(path)}
    assert [f"{path}: {length} lines" for path, length in lengths.items() if length > FILE_LINES] == []


def test_the_folder_of_the_services_is_no_package() -> None:
    # It would hide the standard library's `cmd`, and pdb and pytest with it.
    assert [path for path in sources() if path in (Path("cmd/__init__.py"), Path("cmd/conftest.py"))] == []


def test_no_name_says_nothing() -> None:
    names = {path: {*path.parent.parts, path.stem} for path in sources()}
    assert [str(path) for path, parts in names.items() if parts & VAGUE] == []


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in sources() if is_test(path)}
    assert [str(folder) for folder in folders if folder / "__init__.py" not in sources()] == []


def is_sleep(node: ast.AST) -> bool:
    """Whether this sleeps. ``asyncio.sleep(0)`` does not: it lets others run."""
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    nothing = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
    return called in ("time.sleep", "sleep") or (called == "asyncio.sleep" and not nothing)


def is_rhythm(node: ast.AST) -> bool:
    """Whether this is a loop that never ends by itself: what sleeps in it keeps a rhythm and waits for nothing."""
    endless = isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value is True
    return endless and not any(isinstance(one, ast.Break | ast.Return) for one in ast.walk(node))


def sleeps(tree: ast.Module) -> list[str]:
    rhythms = {one for node in ast.walk(tree) if is_rhythm(node) for one in ast.walk(node)}
    return [f"{node.lineno} {ast.unparse(node)}" for node in calls(tree) if is_sleep(node) and node not in rhythms]


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("await asyncio.sleep(0)", 0),
        ("await asyncio.sleep(0.01)", 1),
        ("await asyncio.sleep(PAUSE_S)", 1),
        ("time.sleep(0)", 1),
        ("while not done():\n    await asyncio.sleep(0.01)", 1),
        ("while True:\n    if done():\n        break\n    await asyncio.sleep(0.01)", 1),
        ("while True:\n    hint()\n    await asyncio.sleep(0.01)", 0),
    ],
)
def test_a_sleep_is_told_from_a_rhythm(code: str, count: int) -> None:
    assert len(sleeps(ast.parse(code))) == count


def test_no_test_sleeps() -> None:
    tests = [path for path in sources() if is_test(path) and path != WAITING]
    assert [f"{path}:{sleep}" for path in tests for sleep in sleeps(tree_of(path))] == []


SUPPRESSION: Final = re.compile(
    r"#\s*(?:noqa\b(?::\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*)?|type:\s*ignore(?:\[[\w, -]*\])?|pragma:[\w ]*)"
)


def comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def lacks_reason(comment: str) -> bool:
    """Whether a comment silences a tool without saying why."""
    said, silenced = SUPPRESSION.subn("", comment)
    return silenced > 0 and len(re.findall(r"\w+", said)) < 2


@pytest.mark.parametrize(
    ("comment", "lacks"),
    [
        ("# why, never what", False),
        ("# noqa", True),
        ("# noqa: S101", True),
        ("# noqa: S101, PLR2004", True),
        ("# noqa: S101 - no secret", False),
        ("# type: ignore", True),
        ("# type: ignore[arg-type]", True),
        ("# type: ignore[arg-type] # its stub is wrong", False),
        ("# type: ignore[arg-type] # noqa: SLF001", True),
        ("# type: ignore[arg-type] # noqa: SLF001 - as alembic does", False),
        ("# pragma: no cover", True),
    ],
)
def test_a_reason_is_told_from_none(comment: str, *, lacks: bool) -> None:
    assert lacks_reason(comment) is lacks


def test_whatever_silences_a_tool_says_why() -> None:
    offenders = [
        f"{path}:{line} {comment}"
        for path, text in sources().items()
        if SUPPRESSION.search(text)
        for line, comment in comments(text)
        if lacks_reason(comment)
    ]
    assert offenders == []


def public(name: str) -> bool:
    return not name.startswith("_")


def undocumented(path: Path, body: list[ast.stmt], within: str = "") -> Iterator[str]:
    """List the public classes and functions without docstring, methods included, functions within functions not."""
    for node in body:
        if not isinstance(node, Definition) or not public(node.name):
            continue
        name = f"{within}{node.name}"
        # A few attributes of the protocols say everything with their name and type.
        told = path == Path("libs/messaging/bus.py") and any(
            "property" in ast.unparse(one) for one in node.decorator_list
        )
        if ast.get_docstring(node) is None and not told:
            yield f"{path}:{node.lineno} {name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(path, node.body, f"{name}.")


def test_everything_public_says_what_its_caller_must_know() -> None:
    offenders = []
    for path in sources():
        if is_test(path):
            continue
        if ast.get_docstring(tree_of(path)) is None:
            offenders.append(f"{path} (the module)")
        if not is_migration(path):
            offenders += undocumented(path, tree_of(path).body)
    assert offenders == []


def test_every_module_of_tests_says_what_it_is_about() -> None:
    modules = [path for path in sources() if is_test(path) and path.stem != "__init__"]
    assert [str(path) for path in modules if ast.get_docstring(tree_of(path)) is None] == []


FOREIGN: Final = re.compile(
    r"/(?:home|Users)/\w|/root/(?!\.)|(?<![\w.$}])/work/"
    r"|\bpypi\.org/simple|pythonhosted\.org|registry\.npmjs\.org|registry\.yarnpkg\.com|\bproxy\.golang\.org"
    r"|--(?:extra-)?index-url|--find-links"
)
"""What is true on one machine only: folders of its owner, hosts from which it happens to install."""


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("see " + "/home" + "/ann/orderly", True),
        ("in /" + "work/main", True),
        ("--index" + "-url https://example.org/simple", True),
        ("https://files.python" + "hosted.org/packages/x.whl", True),
        ("https://registry.npm" + "js.org/x", True),
        ("https://pypi.org/project/orderly", False),
        ("http://arch.homework/client/health/", False),
        ("docs/work/plan.md", False),
    ],
)
def test_what_is_true_on_one_machine_only_is_told_from_the_rest(text: str, *, foreign: bool) -> None:
    assert bool(FOREIGN.search(text)) is foreign


def tracked() -> list[Path]:
    """List the files under version control, and those that will be: everything that is not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, check=False, text=True)
    if listed.returncode != 0:
        return [ROOT / path for path in sources()]  # an export without its history
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_nothing_names_a_folder_or_a_registry_of_one_machine() -> None:
    offenders = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture or a font
        for match in FOREIGN.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            offenders.append(f"{path.relative_to(ROOT)}:{line} {match[0]}")
    assert offenders == []


def test_locks_name_versions_and_hashes_and_no_host() -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert locks
    lines = [(lock.name, line) for lock in locks for line in lock.read_text().splitlines()]
    assert [f"{name}: {line}" for name, line in lines if "://" in line] == []
