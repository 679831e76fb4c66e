"""How facts flow through the services: which code states each, and which handles it. Read from tables and code.

Tables say what answers a route or a fact; the code of that function, and of the service's functions that it
mentions, says what it states. Whatever cannot be told for certain raises `CannotTell`: a map that guesses is worse
than none.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gateway.api import BASE
from libs.contracts import Fact
from libs.service import Service

ROOT: Final = Path(__file__).parents[2]


class CannotTell(Exception):
    """The code states a fact in a way that this module does not understand; the message says where."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A call that publishes a fact of one type."""

    fact: type[Fact]
    place: Place


@dataclass(frozen=True, slots=True)
class Step:
    """What answers a request or a fact, or is done again and again; and the facts it may state.

    `name` is method and path, the fact's type, or the function that is the chore.
    """

    kind: Literal["route", "fact", "chore"]
    service: str
    name: str
    place: Place
    states: tuple[Statement, ...]


def steps_of(services: Sequence[Service[Any, Any]]) -> list[Step]:
    """List what the services do about requests, facts and time, in the order of their tables.

    Of the routes only those that state something.
    """
    steps = []
    for service in services:
        for route in service.routes:
            step = _step("route", service, f"{route.method} {BASE}{route.path}", route.handler)
            steps += [step] if step.states else []
        steps += [_step("fact", service, line.fact.type, line.handler) for line in service.listens]
        if service.restating:
            steps.append(_step("chore", service, service.restating.work.__name__, service.restating.work))
    return steps


def publishing_lines(service: Service[Any, Any]) -> set[str]:
    """Find every call in a service's code that publishes, reached by a step or not."""
    files = (file for file in service.folder.rglob("*.py") if "tests" not in file.parts)
    return {f"{file.relative_to(ROOT)}:{call.lineno}" for file in files for call in _publishing(_parsed(file))}


def _step(kind: Literal["route", "fact", "chore"], service: Service[Any, Any], name: str, function: Any) -> Step:
    states = tuple(said for one in _reached(function, service.name) for said in _statements(one))
    return Step(kind, service.name, name, _place(function, _node(function).lineno), states)


def _reached(function: FunctionType, package: str) -> list[FunctionType]:
    """List a function and those of the package that it, or they, mention; each once."""
    found, waiting = [], [function]
    while waiting:
        one = waiting.pop(0)
        if one in found:
            continue
        found.append(one)
        waiting += [
            other
            for other in _mentioned(one)
            if isinstance(other, FunctionType)
            and other.__module__.split(".")[0] == package
            and other.__qualname__ == other.__name__  # methods decide; what states facts are functions
        ]
    return found


def _mentioned(function: FunctionType) -> Iterator[Any]:
    for node in ast.walk(_node(function)):
        if isinstance(node, ast.Name | ast.Attribute):
            yield _value(node, function)


def _statements(function: FunctionType) -> Iterator[Statement]:
    for call in _publishing(_node(function)):
        for fact in _types(call.args[0], function):
            yield Statement(fact, _place(function, call.lineno))


def _publishing(tree: ast.AST) -> Iterator[ast.Call]:
    """Find the calls of `Unit.publish`: no other method of that name is told a cause."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "publish"
            and any(keyword.arg == "cause" for keyword in node.keywords)
        ):
            yield node


def _types(expression: ast.expr, function: FunctionType) -> list[type[Fact]]:
    """Tell which facts an expression may be. Raises `CannotTell`."""
    found: list[type[Fact]] = []
    match expression:
        case ast.IfExp():
            found = _types(expression.body, function) + _types(expression.orelse, function)
        case ast.Name():
            values = _assigned(expression.id, function)
            found = [fact for value in values for fact in _types(value, function)]
        case ast.Call():
            found = _returned(expression, function)
        case ast.Attribute():
            found = _facts_in(_kind(expression, function), {})
    if not found:
        where = _place(function, expression.lineno)
        raise CannotTell(f"{where}: which fact is {ast.unparse(expression)}?")
    return list(dict.fromkeys(found))


def _returned(call: ast.Call, function: FunctionType) -> list[type[Fact]]:
    """Tell which facts a call makes: of a class, of its class method, or of a function by its annotations."""
    called = _value(call.func, function)
    if isinstance(call.func, ast.Attribute) and _is_fact(maker := _value(call.func.value, function)):
        return [maker]
    if _is_fact(called):
        return [called]
    if not isinstance(called, FunctionType):
        return []
    hints = get_type_hints(called)
    given = dict(zip(inspect.signature(called).parameters, call.args, strict=False))
    # A function that is told the class of what it makes: `_moved(AccountCredited, …)`.
    told = {
        get_args(hints[name])[0]: _value(value, function)
        for name, value in given.items()
        if get_origin(hints.get(name)) is type
    }
    return _facts_in(hints.get("return"), told)


def _facts_in(kind: Any, told: Mapping[Any, Any]) -> list[type[Fact]]:
    if isinstance(kind, TypeVar):
        kind = told.get(kind)
    if get_origin(kind) in (Union, UnionType):
        return [fact for one in get_args(kind) for fact in _facts_in(one, told)]
    return [kind] if _is_fact(kind) else []


def _kind(expression: ast.expr, function: FunctionType) -> Any:
    """Tell the type of `command.body.fact`, where `command` runs over an annotated parameter; None if unknown."""
    if isinstance(expression, ast.Name):
        return _element(expression.id, function)
    if not isinstance(expression, ast.Attribute):
        return None
    owner = _kind(expression.value, function)
    if owner is None:
        return None
    generic = get_origin(owner) or owner
    hint = get_type_hints(generic).get(expression.attr)
    return dict(zip(getattr(generic, "__parameters__", ()), get_args(owner), strict=False)).get(hint, hint)


def _element(name: str, function: FunctionType) -> Any:
    """Tell what a loop's variable is: an element of the parameter that the loop, or its `zip`, runs over."""
    hints = get_type_hints(function)
    for node in ast.walk(_node(function)):
        if not isinstance(node, ast.For):
            continue
        targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
        sources = node.iter.args if isinstance(node.iter, ast.Call) else [node.iter]
        for target, source in zip(targets, sources, strict=False):
            if isinstance(target, ast.Name) and target.id == name and isinstance(source, ast.Name):
                return next(iter(get_args(hints.get(source.id))), None)
    return None


def _assigned(name: str, function: FunctionType) -> list[ast.expr]:
    """List what a function assigns to a name of its own."""
    return [
        node.value
        for node in ast.walk(_node(function))
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]


def _value(expression: ast.expr, function: FunctionType) -> Any:
    """Look up a name, plain or dotted, as the function's module knows it; None for what is the function's own."""
    if isinstance(expression, ast.Name) and expression.id not in _own_names(function):
        return function.__globals__.get(expression.id)
    if isinstance(expression, ast.Attribute):
        return getattr(_value(expression.value, function), expression.attr, None)
    return None


@cache
def _own_names(function: FunctionType) -> frozenset[str]:
    return frozenset(function.__code__.co_varnames + function.__code__.co_cellvars)


@cache
def _node(function: FunctionType) -> ast.AsyncFunctionDef | ast.FunctionDef:
    for node in _parsed(Path(function.__code__.co_filename)).body:
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name == function.__name__:
            return node
    raise CannotTell(f"{function.__qualname__} is no function of a module")


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _place(function: FunctionType, line: int) -> Place:
    return Place(str(Path(function.__code__.co_filename).relative_to(ROOT)), line, function.__name__)


def _is_fact(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Fact)
