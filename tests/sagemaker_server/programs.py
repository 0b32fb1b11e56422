"""What a job runs: the image in Docker, or the same entry point as a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

RESOLVED = "BIRDSONG_TEST_RESOLVED"
"""The file that takes names which somebody wanted to resolve outside of this machine."""

GRACE_SECONDS = 120
"""From SIGTERM to SIGKILL, as `docker stop -t 120`."""

TRAINING = (sys.executable, "-m", "birdsong.aws.training_container")
"""The program of the image `train`."""

MADE = (sys.executable, str(HERE / "made_train.py"))
"""A cheap program in its place."""


class Running(Protocol):
    """A started program; its output is read line by line from `process.stdout`."""

    process: "subprocess.Popen[str]"

    def end(self, *, hard: bool) -> None:
        """SIGTERM and, after a while, SIGKILL; or SIGKILL at once."""


class Program(Protocol):
    """Starts what a job runs."""

    def start(self, image: str, root: Path, environment: Mapping[str, str]) -> Running:
        """Start it over a tree that stands for /opt/ml."""


@dataclass(frozen=True)
class Process:
    """The entry point as a process, with the tree as its argument.

    Attributes:
        command: Its beginning.
    """

    command: Sequence[str] = TRAINING

    def start(self, image: str, root: Path, environment: Mapping[str, str]) -> Running:
        kept = ("PATH", "HOME", "LANG", RESOLVED)
        own = {name: os.environ[name] for name in kept if name in os.environ}
        process = subprocess.Popen(
            [*self.command, str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={
                **own,
                "PYTHONPATH": f"{HERE / 'offline'}{os.pathsep}{ROOT}",
                "PYTHONUNBUFFERED": "1",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "MPLBACKEND": "Agg",
                **environment,
            },
            start_new_session=True,
        )
        return _OfProcess(process)


@dataclass
class _OfProcess:
    process: "subprocess.Popen[str]"

    def end(self, *, hard: bool) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL if hard else signal.SIGTERM)
            self.process.wait(GRACE_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Container:
    """The image in Docker: `docker run IMAGE train` over a mounted /opt/ml, without a network."""

    def start(self, image: str, root: Path, environment: Mapping[str, str]) -> Running:
        name = f"sagemaker-server-{root.name}"
        # Any user of an image writes there, as on SageMaker, where it is root.
        subprocess.run(["chmod", "-R", "a+rwX", str(root)], check=True)
        variables = [
            part for key, value in environment.items() for part in ("-e", f"{key}={value}")
        ]
        process = subprocess.Popen(
            [
                *("docker", "run", "--rm", "--name", name, "--network", "none"),
                *variables,
                *("-v", f"{root}:/opt/ml", image, "train"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return _OfContainer(process, name)


@dataclass
class _OfContainer:
    process: "subprocess.Popen[str]"
    name: str

    def end(self, *, hard: bool) -> None:
        how = ["kill"] if hard else ["stop", "-t", str(GRACE_SECONDS)]
        # As long as it lives: a container that is only being made cannot be ended yet.
        while self.process.poll() is None:
            done = subprocess.run(["docker", *how, self.name], capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.2)
