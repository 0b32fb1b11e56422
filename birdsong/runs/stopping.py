"""Ending a run of this machine from outside, as Ctrl-C ends it from inside."""

import contextlib
import os
import signal
import time

from birdsong.errors import ConfigError
from birdsong.runs import processes, record
from birdsong.runs.record import Run, State

URGE_SECONDS = 30.0
"""After which the wish is repeated, which means at once."""


def signal_engine(run: Run) -> None:
    """Send SIGTERM to the engine of a run.

    Raises:
        ConfigError: The run is over, its process is gone, or it runs on another machine.
    """
    if run.state != State.RUNNING:
        raise ConfigError(f"Run {run.id} is not running: it is {run.state}.")
    if run.pid is None or run.host != processes.current().host:
        raise ConfigError(f"Run {run.id} runs on {run.host or 'another machine'}; stop it there.")
    gone = ConfigError(f"The process of run {run.id} is gone.")
    try:
        # A handle first, so that no later process can take the number between check and signal.
        handle = os.pidfd_open(run.pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        raise gone from None
    try:
        if not processes.lives(run.pid, run.process_started):
            raise gone
        if handle is not None:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        else:
            os.kill(run.pid, signal.SIGTERM)
    except ProcessLookupError:
        raise gone from None
    except PermissionError:
        raise ConfigError(f"Run {run.id} belongs to another user; they can stop it.") from None
    finally:
        if handle is not None:
            os.close(handle)


def stop(run: Run, wait_seconds: float = 60.0) -> Run:
    """Cancel a run and wait until its record says how it ended.

    Of a run whose engine is dead, containers that nobody removed are removed.

    Returns:
        Its last record; still RUNNING when that did not happen in `wait_seconds`.

    Raises:
        ConfigError: It cannot be stopped from here.
    """
    if run.state == State.DIED and run.runner == "docker":
        from birdsong.runs import containers

        with contextlib.closing(containers.connect()) as client:
            if containers.sweep(client, run.folder.parent, run.id):
                return run
    signal_engine(run)
    began, urged = time.monotonic(), False
    while (passed := time.monotonic() - began) < wait_seconds:
        seen = record.read(run.folder)
        if seen.state != State.RUNNING:
            return seen
        if passed > URGE_SECONDS and not urged:
            urged = True
            with contextlib.suppress(ConfigError):
                signal_engine(seen)
        time.sleep(0.1)
    return record.read(run.folder)
