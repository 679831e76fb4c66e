"""``new-service``: a folder, and the lines in which services are listed. What it writes runs, and is tested."""

import builtins
import importlib.util
import keyword
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS as POSTGRES_WORDS
from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer

from orderly.newman import ROOT
from orderly.twins import Twin, twin_of, with_twin

TEMPLATES: Final = Path(__file__).parent / "templates"
MODEL: Final = "billing"
"""The service whose images, manifests and secrets a new one gets, too: the one that is called the same everywhere."""

LONGEST: Final = 30
_WORDS_OF_SQL: Final = {word.lower() for word in POSTGRES_WORDS | SQLiteIdentifierPreparer.reserved_words}
_RESERVED: Final = {
    "client": "the namespace of the gateway",
    "observer": "the NATS user who sees everything",
    "messaging": "the name of the migrations that every service has",
    "postgres": "the name of a server",
    "default": "a namespace of Kubernetes",
    "health": "a path of the gateway",
    "docs": "a path of the gateway",
    "asyncapi": "a path of the gateway",
    "service": "what all of them are called",
    "database": "what each of them has",
}


class CannotScaffold(Exception):
    """A service of this name cannot be made; the message says why, in one sentence."""


def add_parser(commands: Any) -> None:
    """Add the command to the program's."""
    parser: ArgumentParser = commands.add_parser("new-service", help="begin a new service, which runs and is tested")
    parser.add_argument("name", help="in lower-case letters; plural where it can be, like orders")
    parser.add_argument("--states", metavar="THING.HAPPENED", help="its first fact, like letter.stored")
    parser.add_argument("--door", action="store_true", help="let the gateway pass requests below /client/NAME on to it")


def new_service(given: Namespace, root: Path = ROOT) -> int:
    """Begin a service in the checkout at `root`; return the exit code."""
    try:
        texts = texts_of(root, given.name, states=given.states, door=given.door)
    except CannotScaffold as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8", newline="\n")
    _tidy(root, given.name)
    for command in (["contracts"], ["trace", "--write"]):  # in a process that knows the new service
        written = subprocess.run(
            [sys.executable, "-m", "orderly", *command], cwd=root, check=False, capture_output=True
        )
        if written.returncode:
            sys.stderr.buffer.write(written.stderr)
            return written.returncode
    for path in texts:
        print(path)
    print(f"\n{given.name} runs with the others (`just run`) and has tests (`just test cmd/{given.name}`). Next:")
    print(f"what it decides, cmd/{given.name}/domain.py; and `just contracts` whenever its facts or its table change")
    return 0


def check(name: str, root: Path) -> None:
    """Raise `CannotScaffold` when a service cannot have this name."""
    if not re.fullmatch(rf"[a-z]{{2,{LONGEST}}}", name):
        raise CannotScaffold(
            f"{name!r} will not do: a name has 2 to {LONGEST} lower-case letters and nothing else, because it becomes "
            "a package, a NATS subject, a database and a namespace"
        )
    if (root / "cmd" / name).exists():
        raise CannotScaffold(f"{name} is there already: cmd/{name}")
    for objection in _objections(name, root):
        raise CannotScaffold(f"{name} {objection}")


def _objections(name: str, root: Path) -> Iterator[str]:
    """Say what the name means already; nothing when it is free."""
    for other in sorted(path.name for path in (root / "cmd").iterdir() if path.is_dir()):
        if singular(other) == singular(name):
            yield f"would be mistaken for {other}, which there is already"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name):
        yield "is a word of Python itself"
    if name in sys.stdlib_module_names:
        yield "is a module of Python's standard library, which it would hide"
    if name in _WORDS_OF_SQL:
        yield "is a word of SQL, and would be the name of a table"
    if name in _RESERVED:
        yield f"is {_RESERVED[name]}"
    if re.search(rf'Door\("/{name}"', _read(root, Path("cmd/gateway/api.py"))):
        yield "is a door of the gateway already"
    if importlib.util.find_spec(name) is not None:
        yield "is an installed package, which it would hide"


def singular(name: str) -> str:
    """Say what one of them is called; the name itself where that cannot be told."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("shes", "sh")):
        if name.endswith(ending):
            return name.removesuffix(ending) + instead
    return name if name.endswith(("ss", "us", "is")) else name.removesuffix("s")


def texts_of(root: Path, name: str, *, states: str | None = None, door: bool = False) -> dict[Path, str]:
    """Make every file that is new, or gets a line more; by its path from `root`. Raises `CannotScaffold`."""
    check(name, root)
    states = states or f"{singular(name)}.noted"
    _check_fact(states, root)
    texts = {**_own(name, states), **_listed(root, name)}
    if door:
        texts |= _door(root, name)
    return {**texts, **deployed(root, name, door=door)}


def _check_fact(states: str, root: Path) -> None:
    if not re.fullmatch(r"[a-z]+\.[a-z]+", states):
        raise CannotScaffold(f"{states!r} is no fact: say what it is about and what happened to it, like letter.stored")
    if states.startswith("dead."):
        raise CannotScaffold("dead is the word for messages that were set aside")
    made = f"class {_class(states)}(Fact)"
    for path in sorted((root / "libs/contracts").glob("*.py")):
        if made in path.read_text(encoding="utf-8"):
            raise CannotScaffold(f"{path.stem} states {_class(states)} already; call this one by another name")


def _class(states: str) -> str:
    return "".join(word.capitalize() for word in states.split("."))


def _own(name: str, states: str) -> dict[Path, str]:
    """The files of the service itself, from the templates."""
    thing, _ = states.split(".")
    words = {"name": name, "Name": name.capitalize(), "thing": thing, "Thing": thing.capitalize()}
    words |= {"type": f"{name}.{states}", "Fact": _class(states)}
    service = TEMPLATES / "service"
    files = {
        Path("cmd", name, *file.relative_to(service).parts): file for file in service.rglob("*.txt") if file.is_file()
    }
    files[Path("libs/contracts", f"{name}.py.txt")] = TEMPLATES / "contract.py.txt"
    return {
        Path(Template(str(path)).substitute(words)).with_suffix(""): _filled(file, words)
        for path, file in sorted(files.items())
    }


def _filled(file: Path, words: Mapping[str, str]) -> str:
    return Template(file.read_text(encoding="utf-8")).substitute(words)


def _listed(root: Path, name: str) -> dict[Path, str]:
    """The places that list the services."""
    services, project = Path("cmd/orderly/services.py"), Path("pyproject.toml")
    table = _read(root, services)
    imports = sorted([*re.findall(r"^import \w+\.app\n", table, re.MULTILINE), f"import {name}.app\n"])
    table = _with_line(table, services, "from libs.service", "".join(imports), instead=r"(?:import \w+\.app\n)+")
    table = _with_line(table, services, ")\n\nNAMES", f"    {name}.app.service,\n")
    packed = f'"asyncapi/{name}.yaml" = "gateway/static/asyncapi/{name}.yaml"\n'
    text = _with_line(_read(root, project), project, "gateway = ", f'{name} = "{name}.__main__:main"\n')
    text = _with_line(text, project, "\n[tool.pytest.ini_options]", packed)
    return {services: table, project: text}


def _door(root: Path, name: str) -> dict[Path, str]:
    """The lines by which the gateway passes requests on."""
    api, settings = Path("cmd/gateway/api.py"), Path("cmd/gateway/settings.py")
    text = _read(root, settings)
    port = max((int(port) for port in re.findall(r'127\.0\.0\.1:(\d+)"', text)), default=8000) + 1
    field = f'    {name}_url: str = Field("http://127.0.0.1:{port}", description="{name}")\n'
    return {
        api: _with_line(_read(root, api), api, ")\n\n\nclass Gateway", f'    Door("/{name}", "{name}"),\n'),
        settings: _with_line(text, settings, "    upstream_timeout_s", field),
    }


def deployed(root: Path, name: str, *, door: bool) -> dict[Path, str]:
    """What compose and the manifests say about `MODEL`, about the new service."""
    others = [path.parent.name for path in (root / "cmd").glob("*/app.py") if path.parent.name not in (MODEL, name)]
    twin = Twin(MODEL, name, others, unlike=("stream: AUTH",))  # which the model listens to, and the new one does not
    texts = {}
    for path in sorted(file for folder in ("docker", "manifests") for file in (root / folder).rglob("*.y*ml")):
        place, text = path.relative_to(root), path.read_text(encoding="utf-8")
        if MODEL in place.parts[:-1]:
            texts[Path(twin.renamed(str(place)))] = twin_of(text, twin)
            continue
        more = with_twin(text, twin, without=None if door else f"{MODEL.upper()}_URL")
        if more != text:
            texts[place] = more
    return texts


def _with_line(text: str, path: Path, before: str, line: str, *, instead: str = "") -> str:
    """Put a line before a text that stands once in a file; `instead` of what is there already, if that is given."""
    pattern = rf"(?:{instead})(?=^{re.escape(before.removeprefix(chr(10)))})"
    if before.startswith("\n"):
        pattern = rf"(?={re.escape(before)})"
    changed, count = re.subn(pattern, lambda _: line, text, count=1, flags=re.MULTILINE)
    if not count:
        raise CannotScaffold(f"{path} is not as expected: there is no line {before.strip()!r} to put a line before")
    return changed


def _read(root: Path, path: Path) -> str:
    return (root / path).read_text(encoding="utf-8")


def _tidy(root: Path, name: str) -> None:
    """Sort and wrap the new lines: both depend on how long the name is."""
    new = [f"cmd/{name}", f"libs/contracts/{name}.py", "cmd/orderly/services.py"]
    for command in (["check", "--fix-only", "--select", "I"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *new], cwd=root, check=True)
