"""What the buttons do: the same commands that people type, in processes of their own."""

import contextlib
import datetime
import importlib.util
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from birdsong.errors import ConfigError, StorageError
from birdsong.runs import leftovers
from birdsong.runs.record import Run

_PLAN_SECONDS = 120.0
_FIRST_SECONDS = 2.0

_started: list[subprocess.Popen[bytes]] = []


def available() -> list[str]:
    """Which of from, only, resume and cancel this installation has."""
    from birdsong.cli.main import app

    commands = {command.name for command in app.registered_commands}
    found = ["cancel"]
    if "rerun" in commands:
        found += ["from", "only"]
    if "resume" in commands:
        found.append("resume")
    return found


def command(
    action: str, run: Run, step: str | None, runs: Path, settings: Sequence[str] = ()
) -> list[str]:
    """The command line of a button.

    Args:
        action: from, only or resume.
        run: The run to go on from.
        step: The step to rerun.
        runs: The runs folder.
        settings: Changed parameters, NAME=VALUE each; not for resume.

    Raises:
        ConfigError: There is no such button, step or setting.
    """
    found = importlib.util.find_spec("pipeline")
    if found is None or found.origin is None:
        raise ConfigError("pipeline.py is not installed beside birdsong; start runs by hand.")
    start = [sys.executable, found.origin]
    if action == "resume":
        return [*start, "resume", run.folder.name, "--runs", str(runs)]
    if action not in ("from", "only"):
        raise ConfigError(f"There is no button {action!r}.")
    if step not in run.steps:
        raise ConfigError(f"To rerun {action}, a step of {run.id} is needed, not {step!r}.")
    line = [*start, "rerun", run.folder.name, f"--{action}", step]
    for setting in settings:
        if not re.fullmatch(r"[A-Za-z_]\w*=[^\x00]*", setting):
            raise ConfigError(f"{setting!r} is not NAME=VALUE.")
        line += ["--set", setting]
    # The page has shown the plan and asked already.
    return [*line, "--runs", str(runs), "--yes"]


def plan(line: list[str]) -> tuple[int, str]:
    """Exit code and text of the command with `--dry-run`: what would run, and why."""
    try:
        done = subprocess.run(
            [*line, "--dry-run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_PLAN_SECONDS,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return 1, f"No plan within {_PLAN_SECONDS:.0f} seconds."
    return done.returncode, done.stdout.decode(errors="replace").strip()


def start(line: list[str], runs: Path) -> tuple[int | None, str]:
    """Start a command that outlives the page.

    Returns:
        Its exit code, None while it runs, and what it printed in its first seconds.
    """
    _reap()
    folder = runs / leftovers.PAGE
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    log = folder / f"{stamp}-{secrets.token_hex(2)}.log"
    try:
        folder.mkdir(exist_ok=True)
        log.touch()
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror}), so nothing was started."
        ) from error
    with log.open("wb") as file:
        child = subprocess.Popen(
            line,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
        )
    try:
        code: int | None = child.wait(_FIRST_SECONDS)
    except subprocess.TimeoutExpired:
        code = None
        _started.append(child)
    return code, log.read_bytes()[:100_000].decode(errors="replace").strip()


def _reap() -> None:
    for child in list(_started):
        if child.poll() is not None:
            with contextlib.suppress(ValueError):
                _started.remove(child)


def _environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
