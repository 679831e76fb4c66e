"""``trace``: the map of the system, as a tree for the terminal and as a Mermaid diagram for the documentation."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from libs.local.servers import CannotStart
from libs.messaging.bus import matches
from orderly.flow import ROOT, Statement, Step, steps_of
from orderly.services import NAMES, SERVICES

DOCUMENT: Final = Path("docs", "trace.md")
NOBODY: Final = "terminal (nobody listens)"

_PIPED_WIDTH: Final = 160
_COLOURS: Final = ("#fde2e2", "#e2ecfd", "#e3f6e3", "#fff1d6", "#efe3fb", "#e0f4f4", "#f3ead9")


@dataclass(slots=True)
class Map:
    """Who states what, and who handles it. `only` are the facts to begin with; all routes and chores otherwise."""

    steps: Sequence[Step]
    only: Sequence[str] = ()
    _shown: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, pattern: str | None) -> "Map":
        """Draw the map of all services, or of what follows from the facts that a pattern means."""
        steps = steps_of(SERVICES)
        facts = facts_of(steps)
        only = [fact for fact in facts if pattern and matches(pattern, fact)]
        if pattern and not only:
            raise CannotStart(f"no fact is called {pattern!r}; there are:\n  " + "\n  ".join(facts))
        return cls(steps, only)

    def handlers(self, fact: str) -> list[Step]:
        """Who handles a fact."""
        return [step for step in self.steps if step.kind == "fact" and step.name == fact]

    def statements(self, fact: str) -> list[tuple[Step, Statement]]:
        """Who states a fact, and where."""
        return [(step, said) for step in self.steps for said in step.states if said.fact.type == fact]

    def tree(self) -> Tree:
        """Follow the flow from each beginning; what was followed before is not followed again."""
        self._shown.clear()
        root = Tree("", hide_root=True, guide_style="dim")
        for fact in self.only:
            branch = root.add(_fact(fact, ()))
            for step, said in self.statements(fact):
                words = "states it at" if step.kind == "fact" else f"{_begins(step)} states it at"
                branch.add(Text.assemble((f"{step.service} {said.place.function} {words} ", "dim"), str(said.place)))
            self._follow(branch, fact)
        if not self.only:
            for step in (*_of_kind(self.steps, "route"), *_of_kind(self.steps, "chore")):
                self._state(root.add(_beginning(step)), step)
        return root

    def _state(self, branch: Tree, step: Step) -> None:
        for fact in dict.fromkeys(said.fact.type for said in step.states):
            places = [str(said.place) for said in step.states if said.fact.type == fact]
            self._follow(branch.add(_fact(fact, places)), fact)

    def _follow(self, branch: Tree, fact: str) -> None:
        handlers = self.handlers(fact)
        if not handlers:
            assert isinstance(branch.label, Text)
            branch.label.append(f"  {NOBODY}", "yellow")
        elif fact in self._shown:
            branch.add(Text("as above", "dim italic"))
        else:
            self._shown.add(fact)
            for step in handlers:
                self._state(branch.add(_handler(step)), step)


def trace(pattern: str | None, *, mermaid: bool, write: bool) -> int:
    """Print the map, or write it into the documentation; return the exit code."""
    if write:
        (ROOT / DOCUMENT).write_text(document(), encoding="utf-8", newline="\n")
        print(DOCUMENT)
    elif mermaid:
        print(diagram(Map.of(pattern)), end="")
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
        console.print(Map.of(pattern).tree())
    return 0


def document() -> str:
    """Write the page of the documentation. It names files and functions, no lines: those move with every edit."""
    drawn = Map.of(None)
    rows = []
    for fact in facts_of(drawn.steps):
        stated = [f"`{said.place.function}`, {said.place.file}" for _, said in drawn.statements(fact)]
        handled = [f"`{step.place.function}`, {step.place.file}" for step in drawn.handlers(fact)]
        cells = (f"`{fact}`", "<br/>".join(dict.fromkeys(stated)), "<br/>".join(handled) or NOBODY)
        rows.append(f"| {' | '.join(cells)} |")
    return _PAGE.format(diagram=diagram(drawn).rstrip(), rows="\n".join(rows))


_PAGE: Final = f"""\
# Who states what, and who handles it

`just trace --write` writes this page from the services' tables and their code, and a test fails when it is not what
they say. `just trace` shows the same in the terminal, with the lines; `just trace orders.order.placed` only what
follows from that.

Requests are slanted, facts are round, handlers are boxes; a colour is a service, which states the facts of its
colour. A dashed line is a chore, which states again what is overdue. A dashed border: {NOBODY}.

```mermaid
{{diagram}}
```

| fact | stated by | handled by |
|---|---|---|
{{rows}}
"""


def diagram(drawn: Map) -> str:
    """Draw the map as a Mermaid flowchart."""
    steps = _followed(drawn) if drawn.only else drawn.steps
    facts = [fact for fact in facts_of(drawn.steps) if _is_drawn(fact, steps, drawn)]
    lines = ["flowchart LR"]
    lines += [f"    {_id(step)}{_shape(step)}:::{step.service}" for step in steps]
    for fact in facts:
        service, label = fact.split(".", 1)
        style = service if drawn.handlers(fact) else f"{service}_end"
        label += "" if drawn.handlers(fact) else "<br/>terminal"
        lines.append(f'    {_fact_id(fact)}(["{label}"]):::{style}')
    for step in steps:
        if step.kind == "fact":
            lines.append(f"    {_fact_id(step.name)} --> {_id(step)}")
        arrow = "-.->" if step.kind == "chore" else "-->"
        stated = dict.fromkeys(said.fact.type for said in step.states)
        lines += [f"    {_id(step)} {arrow} {_fact_id(fact)}" for fact in stated]
    for name, colour in zip(NAMES, cycle(_COLOURS), strict=False):
        lines.append(f"    classDef {name} fill:{colour},stroke:#666,color:#222")
        lines.append(f"    classDef {name}_end fill:{colour},stroke:#666,color:#222,stroke-dasharray:4")
    return "\n".join(lines) + "\n"


def facts_of(steps: Sequence[Step]) -> list[str]:
    """List the facts that are stated, as one leads to the other."""
    beginnings = (*_of_kind(steps, "route"), *_of_kind(steps, "chore"))
    found: list[str] = []
    waiting = [said.fact.type for step in beginnings for said in step.states]
    while waiting:
        fact = waiting.pop(0)
        if fact not in found:
            found.append(fact)
            follow = [step for step in steps if step.kind == "fact" and step.name == fact]
            waiting = [said.fact.type for step in follow for said in step.states] + waiting
    return found


def _followed(drawn: Map) -> list[Step]:
    """List the steps that follow from the facts that somebody asked for."""
    steps: list[Step] = []
    waiting = list(drawn.only)
    while waiting:
        for step in drawn.handlers(waiting.pop(0)):
            if step not in steps:
                steps.append(step)
                waiting += [said.fact.type for said in step.states]
    return steps


def _is_drawn(fact: str, steps: Sequence[Step], drawn: Map) -> bool:
    return not drawn.only or fact in drawn.only or any(said.fact.type == fact for step in steps for said in step.states)


def _of_kind(steps: Sequence[Step], kind: str) -> list[Step]:
    return [step for step in steps if step.kind == kind]


def _begins(step: Step) -> str:
    return f"({step.name})" if step.kind == "route" else "(again and again)"


def _beginning(step: Step) -> Text:
    name = (step.name, "bold magenta") if step.kind == "route" else ("again and again", "bold magenta")
    return Text.assemble(name, "  ", step.service, f" {step.place.function}  ", (str(step.place), "dim"))


def _handler(step: Step) -> Text:
    return Text.assemble((step.service, "bold"), f" {step.place.function}  ", (str(step.place), "dim"))


def _fact(fact: str, places: Sequence[str]) -> Text:
    return Text.assemble((fact, "bold cyan"), "  " if places else "", (", ".join(places), "dim"))


def _id(step: Step) -> str:
    return f"{step.kind}_{step.service}_{step.place.function}"


def _fact_id(fact: str) -> str:
    return fact.replace(".", "_")


def _shape(step: Step) -> str:
    if step.kind == "route":
        return f'[/"{step.name}"/]'
    return f'["{step.service}<br/>{step.place.function}"]'
