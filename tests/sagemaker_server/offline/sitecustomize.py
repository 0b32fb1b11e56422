"""On PYTHONPATH: a process that resolves a name outside of this machine fails, and it is noted.

The names go to the file that BIRDSONG_TEST_RESOLVED names, one a line.
"""

import os
import socket

_LOCAL = ("localhost", "::1", "0.0.0.0", "::", "")
_resolve = socket.getaddrinfo


def _only_here(host, *more, **named):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    own = name is None or name in _LOCAL or name.startswith("127.") or name == socket.gethostname()
    if not own:
        place = os.environ.get("BIRDSONG_TEST_RESOLVED")
        if place:
            with open(place, "a") as file:  # noqa: PTH123
                file.write(f"{name}\n")
        raise socket.gaierror(socket.EAI_NONAME, f"tests resolve no name outside: {name}")
    return _resolve(host, *more, **named)


socket.getaddrinfo = _only_here
