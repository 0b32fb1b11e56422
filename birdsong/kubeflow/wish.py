"""What `make cluster` is asked for, and the programs that it calls."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from birdsong.errors import BirdsongError

NAMESPACE = "kubeflow"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Wish:
    """What is wanted.

    Attributes:
        name: Of the kind cluster.
        context: Of kubectl, for a cluster that is there already; empty for kind.
        namespace: Where KFP is.
        data: Folder of recordings that pods are to see at /data; None for none.
        port: Of the UI on this machine.
        overlays: Folders of k8s/overlays to apply.
        load: Whether images are loaded or pushed.
        wait_minutes: Longest wait for KFP.
    """

    name: str = "birdsong"
    context: str = ""
    namespace: str = NAMESPACE
    data: Path | None = None
    port: int = 8080
    overlays: tuple[str, ...] = ("mlflow",)
    load: bool = True
    wait_minutes: int = 15

    @property
    def own(self) -> bool:
        """Whether the cluster is one of kind that this makes and removes."""
        return not self.context

    @property
    def kubectl(self) -> list[str]:
        """The start of every call of kubectl."""
        return ["kubectl", "--context", self.context or f"kind-{self.name}"]


class CommandError(BirdsongError):
    """A program that was called has failed."""


class Programs:
    """Calls the programs."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            tell: Hears each step, a line each.
        """
        self.tell = tell

    def ask(self, command: Sequence[str], stdin: str | None = None) -> str:
        """Run a program and return what it says.

        Raises:
            CommandError: It failed; with its last lines.
        """
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode:
            raise CommandError(_failed(command, done.returncode, done.stderr or done.stdout))
        return done.stdout

    def works(self, command: Sequence[str]) -> bool:
        """Whether a program ends well."""
        try:
            self.ask(command)
        except CommandError:
            return False
        return True

    def do(self, command: Sequence[str], stdin: str | None = None) -> None:
        """Run a program that tells people what it does.

        Raises:
            CommandError: It failed.
        """
        self.tell(f"  $ {' '.join(command)}")
        done = subprocess.run(
            command, input=stdin, text=True, check=False, cwd=ROOT, stderr=subprocess.PIPE
        )
        if done.returncode:
            raise CommandError(_failed(command, done.returncode, done.stderr))
        sys.stderr.write(done.stderr)


def _failed(command: Sequence[str], code: int, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()][-12:]
    text = "\n".join(f"  {line}" for line in lines)
    return (
        f"`{' '.join(command)}` ended with {code}:\n{text}"
        if lines
        else (f"`{' '.join(command)}` ended with {code}.")
    )
