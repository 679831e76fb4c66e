"""CONTRIBUTING.md is true: its service, made by its steps in a copy of this checkout, passes and runs."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from orderly.newman import ROOT
from orderly.tests.checkouts import Checkout

TEXT: Final = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(
    r"(?:^`(?P<path>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
RECIPES: Final = set(re.findall(r"^([a-z][a-z-]*)(?: [^:=\n]*)?:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Step:
    """A block of the document: commands, the whole of a file, or changes."""

    kind: str
    body: str
    path: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a block for the shell, as words."""
        return [words for line in self.body.splitlines() if (words := shlex.split(line, comments=True))]

    def take(self, checkout: Checkout) -> None:
        """Do what the block says."""
        match self.kind:
            case "sh":
                for program, recipe, *arguments in self.commands:
                    assert program == "./just"
                    checkout.just(recipe, *arguments)
            case "python":
                assert self.path, "a file without its name"
                (checkout.root / self.path).write_text(self.body, encoding="utf-8")
            case "diff":
                checkout.run("git", "apply", "-", given=self.body)
            case kind:
                raise AssertionError(f"what to do with {kind}?")


def steps_of(text: str) -> list[Step]:
    return [Step(found["kind"], found["body"], found["path"]) for found in BLOCK.finditer(text)]


def test_every_command_is_a_recipe() -> None:
    commands = [command for step in steps_of(TEXT) if step.kind == "sh" for command in step.commands]
    assert len(commands) > 10
    assert {(program, recipe in RECIPES) for program, recipe, *_ in commands} == {("./just", True)}
    mentioned = set(re.findall(r"`(?:\./)?just ([a-z-]+)", TEXT))
    assert mentioned - RECIPES == set()


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert links


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_the_service_of_the_walkthrough_passes_its_tests_and_runs(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "orderly")
    walkthrough = TEXT.partition("\n## A service of your own\n")[2].partition("\n## ")[0]
    steps = steps_of(walkthrough)
    assert {step.kind for step in steps} == {"sh", "python", "diff"}
    for step in steps:
        step.take(checkout)

    # One that no door leads to, beside it: it has a start of its own to be waited for.
    checkout.just("new-service", "invoices")
    tests = ("test_contracts.py", "test_asyncapi.py", "test_flow.py", "test_nats_access.py", "test_loyalty.py")
    checkout.just("test", "cmd/invoices", "libs/contracts", *(f"cmd/orderly/tests/{name}" for name in tests))
    checkout.just("lint")
