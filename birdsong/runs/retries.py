"""Which failures of a step are worth another attempt, how often, and how long between them.

A place that does not answer now may answer in a moment, so that is tried again. A wrong setting,
bad data, missing credentials or a bucket that is not there fail the same way again. Nor is a killed
process (most often for memory) tried again: it would fill the memory a second time, and `resume`
goes on from there when there is room.
"""

import re
from pathlib import Path

DELAYS = (2.0, 10.0)
"""Seconds before the second and the third attempt; there is no fourth."""

_MENDABLE = {
    "birdsong.errors.UnreachableError",
    "ConnectionError",
    "ConnectionResetError",
    "ConnectionRefusedError",
    "ConnectionAbortedError",
    "BrokenPipeError",
    "TimeoutError",
    "socket.timeout",
    "socket.gaierror",
    "urllib.error.URLError",
}
_MENDABLE_NAMES = {  # of the libraries of buckets and of HTTP, whatever module they live in
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ServiceUnavailable",
    "TooManyRequests",
    "GatewayTimeout",
}
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(:|$)")
_END = 200_000


def delay(attempt: int, exit_code: int | None, log: Path, log_start: int) -> float | None:
    """Seconds to wait before the next attempt; None where there is no point in one.

    Args:
        attempt: The number of the attempt that failed, from 1.
        exit_code: How it ended; negative for a signal.
        log: What it printed.
        log_start: Where in the log this attempt begins, in bytes.
    """
    if attempt > len(DELAYS) or exit_code is None or exit_code <= 0:
        return None
    kind = raised(log, log_start)
    if kind in _MENDABLE or kind.rpartition(".")[2] in _MENDABLE_NAMES:
        return DELAYS[attempt - 1]
    return None


def raised(log: Path, start: int = 0) -> str:
    """Full name of the exception that ended an attempt; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - _END))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = ""
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside, found = True, ""
        elif inside and (match := _RAISED.match(line)):
            # The first line after the traceback that is not indented; its text may go on below.
            inside, found = False, match["kind"]
    return found
