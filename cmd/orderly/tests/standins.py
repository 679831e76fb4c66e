"""Stand-ins for minikube, kubectl and docker: they note how they were called, and do a little of what those do."""

import os
import shutil
from pathlib import Path
from typing import Final

REAL: Final = ("awk", "bash", "cat", "echo", "grep", "mkdir", "openssl", "sed", "sh", "touch", "xargs")
"""What a shell of anybody has."""

RECORD: Final = """#!/bin/sh
echo "$(basename "$0") $*" >> "$STATE/calls"
case "$*" in *"${FAILS:-nothing fails}"*) echo "it went wrong" >&2; exit 7;; esac
"""
PROGRAMS: Final = {
    "minikube": """
case "$*" in
    "version --short") echo "${VERSION:-v1.39.0}";;
    *status) test -e "$STATE/running";;
    *start*) touch "$STATE/running";;
    *"image ls") cat "$STATE/images" 2>/dev/null; true;;
    *"image load "*) for image in "$@"; do :; done; echo "docker.io/library/$image" >> "$STATE/images";;
    *ip) echo 192.168.49.2;;
esac
""",
    "kubectl": """
case "$*" in
    kustomize*) echo "image: orderly:0.1.0";;
    *"create secret"*) echo "kind: Secret"; echo "$*" >> "$STATE/secrets";;
    *"get secret"*) grep -q -- " $4 " "$STATE/secrets" 2>/dev/null;;
    *"--filename=-") cat >> "$STATE/applied";;
    *"get persistentvolume --output"*) printf '%s\\n' $VOLUMES;;
    *"get pods"*calico*) test "$POLICIES" = none || echo pod/calico-node-1;;
    *"get pods"*) echo "auth  CrashLoopBackOff";;
esac
""",
    "docker": "",
    "orderly": "",
    "sudo": "cat > /dev/null\n",
    "curl": "",
    "newman": "",
}


class StandIns:
    """A folder of programs, which is all that a PATH leads to."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.programs = folder / "programs"
        self.state.mkdir()
        self.programs.mkdir()
        for name in REAL:
            if found := shutil.which(name):
                (self.programs / name).symlink_to(found)
        for name, does in PROGRAMS.items():
            (self.programs / name).write_text(RECORD + does)
            (self.programs / name).chmod(0o755)
        for name in ("basename", "printf"):
            if found := shutil.which(name):
                (self.programs / name).symlink_to(found)

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": os.fspath(self.programs), "STATE": os.fspath(self.state), **more}

    def without(self, *names: str) -> None:
        for name in names:
            (self.programs / name).unlink()

    def calls(self, *, since: int = 0) -> list[str]:
        """How the programs were called, in order."""
        file = self.state / "calls"
        return file.read_text().splitlines()[since:] if file.exists() else []

    def applied(self) -> str:
        return (self.state / "applied").read_text()
