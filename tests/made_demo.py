"""A run of the whole pipeline on few generated songs.

Not in conftest.py: folders have one of their own, and `import conftest` would find any of them.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class DemoRun:
    """A run of the whole pipeline by the command line.

    Attributes:
        runs: Its runs folder.
        output: What the command printed.
        exit_code: How it ended.
    """

    runs: Path
    output: str
    exit_code: int


def run_demo(folder: Path, *more: str) -> DemoRun:
    """The whole DAG on few generated songs and with a short training.

    So little data cannot hold a rate of 1 %, so the promise is weaker and the gate is open.
    """
    runs = folder / "runs"
    settings = ["epochs=3", "target_fpr=0.3", "gate=none", "golden=2", "trials=0"]
    command = [sys.executable, str(ROOT / "pipeline.py"), "run", "--profile", "demo"]
    command += ["--source", "demo:?species=3&recordings=12&seed=0", "--runs", str(runs)]
    done = subprocess.run(
        [*command, *(part for text in settings for part in ("--set", text)), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    return DemoRun(runs, done.stdout, done.returncode)
