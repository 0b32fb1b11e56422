"""What servers for this machine share: the socket they listen on, and who may speak to them.

A page of any website that is open in the same browser can send requests to this machine. It cannot
read answers, unless its name is made to point here after it was loaded (DNS rebinding). Such a
request carries that other name in its Host header.
"""

import contextlib
import ipaddress
import socket

from birdsong.errors import ConfigError


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens already: whoever hears its address can come at once.

    Args:
        host: Name or address.
        port: 0 takes a free one.

    Raises:
        ConfigError: The port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # A server that was just stopped does not keep its port for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
            undo.pop_all()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error}. Take another --port (0: any free one) "
            "or --host."
        ) from error
    return listener


def names_us(header: str, host: str) -> bool:
    """Whether a Host header names the server that listens on `host`."""
    name = header.rsplit(":", 1)[0] if header.rsplit(":", 1)[-1].isdigit() else header
    name = name.strip("[]").lower()
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    if host in ("0.0.0.0", "::"):
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)  # rebinding needs a name; an address is what it says
            return True
        return name == socket.gethostname().lower()
    return False
