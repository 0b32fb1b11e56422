"""Processes of steps: who lives, what belongs to a step, and ending all of it.

A step may start processes of its own, also in sessions of their own, so a step is known by a mark
in its environment that its descendants inherit. Where there is no /proc, the process group has to
do.
"""

import contextlib
import functools
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "BIRDSONG_STEP_MARK"
"""Environment variable that every process of a step carries."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one of the same id by its start."""

    host: str
    pid: int
    started: str | None


@functools.cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state first); empty where there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()  # the second field, the name, may hold anything


def started(pid: int) -> str | None:
    """When a process started, as a text that only that process has; None for none or unknown."""
    values = _stat(pid)
    return f"{_boot()}:{values[19]}" if values else None


def current() -> Process:
    """This process."""
    pid = os.getpid()
    return Process(socket.gethostname(), pid, started(pid))


def lives(pid: int, start: str | None) -> bool:
    """Whether the process `pid` that started at `start` still runs; a zombie does not."""
    if not _PROC.is_dir() or start is None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    values = _stat(pid)
    return bool(values) and values[0] not in "ZX" and f"{_boot()}:{values[19]}" == start


def marked(mark: str) -> list[int]:
    """Ids of the living processes with `mark`, or a part of it (`mark/...`), this one left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for place in _PROC.glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue  # gone, or someone else's
        belongs = any(
            entry == wanted or entry.startswith(wanted + b"/") for entry in environment.split(b"\0")
        )
        if belongs and int(place.name) != os.getpid():
            values = _stat(int(place.name))
            if values and values[0] not in "ZX":
                found.append(int(place.name))
    return found


def send(mark: str, group: int | None, number: int) -> None:
    """Send a signal to all processes of a step."""
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(
    mark: str,
    group: int | None = None,
    grace_seconds: float = 5.0,
    at_once: Callable[[], bool] = lambda: False,
) -> None:
    """End all processes of a step: politely, and after a while hard.

    Args:
        mark: How they are known.
        group: Their process group, for where marks cannot be read.
        grace_seconds: Time between the polite and the hard signal.
        at_once: Asked during that time; True cuts it short.
    """
    if not marked(mark):
        return
    send(mark, group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while marked(mark) and time.monotonic() < deadline and not at_once():
        time.sleep(0.02)
    while marked(mark):
        send(mark, None, signal.SIGKILL)
        time.sleep(0.02)


def memory(mark: str) -> int:
    """Bytes that the processes of a step hold and that are not file cache, all together."""
    total = 0
    for pid in marked(mark):
        with contextlib.suppress(OSError, ValueError):
            for line in (_PROC / str(pid) / "status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total
