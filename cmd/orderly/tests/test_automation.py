"""What others run on our behalf: the workflow calls `.ci/run` and nothing else, the hooks what is installed here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from orderly.newman import ROOT

WORKFLOW: Final[dict[Any, Any]] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS: Final = [
    hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]
]
STEPS: Final = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_what_everybody_can_run() -> None:
    assert [step["run"] for step in STEPS if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_workflow_may_read_and_nothing_else() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in WORKFLOW["jobs"].values())
    assert not any(re.search(r"\bsecrets\b", str(step)) for step in STEPS)


def test_the_workflow_uses_few_actions_each_in_a_known_version() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", action) for action in used), used


def test_the_workflow_tries_the_oldest_python_that_is_promised() -> None:
    (given,) = [step["with"] for step in STEPS if "setup-python" in step.get("uses", "")]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest
    assert given["python-version"] == oldest[1]


@pytest.mark.parametrize("hook", HOOKS, ids=[hook["id"] for hook in HOOKS])
def test_a_hook_runs_what_is_installed_here(hook: dict[str, Any]) -> None:
    program, *_ = shlex.split(hook["entry"])
    assert hook["language"] == "system"
    assert Path(program).parent == Path(".venv/bin")
    assert (Path(sys.executable).parent / Path(program).name).exists()


def test_the_hooks_about_files_find_what_is_wrong_with_one(tmp_path: Path) -> None:
    """Each is given a file that it must refuse."""
    wrong = {"ruff-check": "import os\n", "ruff-format": "x=1\n"}
    for hook in HOOKS:
        if hook["id"] in wrong:
            file = tmp_path / f"{hook['id']}.py"
            file.write_text(wrong[hook["id"]])
            program, *arguments = shlex.split(hook["entry"])
            command = [str(Path(sys.executable).parent / Path(program).name), *arguments, str(file)]
            done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
            assert done.returncode == 1, (hook["id"], done.stdout, done.stderr)
