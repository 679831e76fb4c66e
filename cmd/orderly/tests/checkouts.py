"""Copies of this checkout with an environment of their own, to change and to run."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Final

from libs.local.supervisor import environment
from orderly.newman import ROOT

MYPY: Final = ".mypy_cache"
SCRIPT: Final = "#!{python}\nfrom {module} import {function}\n\n{function}()\n"


class Checkout:
    """A copy of what is under version control here, changed files included."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(git, check=True, capture_output=True, text=True).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        if (ROOT / MYPY).is_dir():
            shutil.copytree(ROOT / MYPY, folder / MYPY)  # what it knows of files that are the same
        subprocess.run(["git", "-C", str(folder), "init", "--quiet"], check=True)
        venv.create(folder / ".venv", symlinks=True)
        self._bin = folder / ".venv" / "bin"
        self._python = self._bin / "python"
        ours = Path(sys.executable).parent
        for program in ("nats-server", "ruff", "mypy"):
            (self._bin / program).symlink_to(ours / program)
        self.install()

    def install(self) -> None:
        """Do what ``just setup`` does, with the packages that are installed here."""
        site = next((self.root / ".venv" / "lib").glob("python3*/site-packages"))
        paths = (self.root / "cmd", self.root, sysconfig.get_path("purelib"))
        (site / "checkout.pth").write_text("".join(f"{path}\n" for path in paths))
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        for name, target in project["scripts"].items():
            module, _, function = target.partition(":")
            program = self._bin / name
            program.write_text(SCRIPT.format(python=self._python, module=module, function=function))
            program.chmod(0o755)

    def python(self, *arguments: str) -> str:
        """Run its Python in it; return what that said, and fail the test if it fails."""
        return self.run(str(self._python), *arguments)

    def run(self, *command: str, given: str | None = None) -> str:
        """Run a program in it; return what that said, and fail the test if it fails."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment(PATH=f"{self._bin}{os.pathsep}{os.environ['PATH']}"),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def just(self, recipe: str, *arguments: str) -> str:
        """Run a recipe of the justfile as it is there, but for the set-up before it."""
        match recipe:
            case "new-service":
                said = self.python("-m", "orderly", recipe, *arguments)
                self.install()
                return said
            case "contracts" | "trace":
                return self.python("-m", "orderly", recipe, *arguments)
            case "test":
                return self.python("-m", "pytest", "-q", "-m", "not prove", "-p", "no:cacheprovider", *arguments)
            case "format":
                return self.python("-m", "ruff", "check", "--fix", ".") + self.python("-m", "ruff", "format", ".")
            case "lint":
                style = self.python("-m", "ruff", "check", ".") + self.python("-m", "ruff", "format", "--check", ".")
                return style + self.python("-m", "mypy")
        raise AssertionError(f"a test does not run `just {recipe}`")
