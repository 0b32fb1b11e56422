"""Where a KFP backend is and how to prove who asks; tokens are never shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from birdsong.errors import ConfigError

TOKEN, TOKEN_FILE = "BIRDSONG_KFP_TOKEN", "BIRDSONG_KFP_TOKEN_FILE"
"""Variables of the environment that hold a bearer token, or name the file that holds it."""

CA_FILE, NAMESPACE = "BIRDSONG_KFP_CA_FILE", "BIRDSONG_KFP_NAMESPACE"
"""Variables that name a file of certificates to trust, and a user's namespace."""

AUTHS = ("auto", "none", "token", "client")

CONNECT_SECONDS, READ_SECONDS = 10, 60


@dataclass(frozen=True)
class Access:
    """Where the backend is and how to prove who asks.

    Attributes:
        host: Its address, as of the UI.
        auth: auto (a token where the environment names one, else none), none, token, or client
            (as kfp.Client finds credentials: IAP, cookies of its context file, a pod's account).
        token: The bearer token; never printed.
        namespace: Of a user in a multi-user installation; empty otherwise.
        ca_file: Certificates to trust; None for the usual ones.
        connect_seconds, read_seconds: Whole seconds of waiting.
    """

    host: str
    auth: str = "none"
    token: str = field(default="", repr=False)
    namespace: str = ""
    ca_file: Path | None = None
    connect_seconds: int = CONNECT_SECONDS
    read_seconds: int = READ_SECONDS


def access(host: str, auth: str, environment: Mapping[str, str], namespace: str = "") -> Access:
    """Read what the environment says about access.

    Raises:
        ConfigError: The address or the kind of access is wrong, or the token is missing.
    """
    try:
        parts = urlsplit(host)
        known = parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        known = None
    if not known:
        raise ConfigError(
            f"--host {host!r}: needs the address of Kubeflow Pipelines, as http://localhost:8080."
        )
    if parts.username or parts.password:
        raise ConfigError(
            f"--host: a name or password does not belong into the address. Give a token by {TOKEN} "
            f"or {TOKEN_FILE}."
        )
    if auth not in AUTHS:
        raise ConfigError(f"--auth {auth!r}: choose {', '.join(AUTHS)}.")
    named = environment.get(CA_FILE)
    if named and not Path(named).is_file():
        raise ConfigError(f"{CA_FILE}={named}: there is no such file.")
    token = ""
    if auth in ("auto", "token") and (environment.get(TOKEN_FILE) or environment.get(TOKEN)):
        token = _token(environment)
        auth = "token"
    elif auth == "token":
        raise ConfigError(f"--auth token: set {TOKEN}, or {TOKEN_FILE} to a file that holds it.")
    return Access(
        host.partition("#")[0].rstrip("/"),
        "none" if auth == "auto" else auth,
        token,
        namespace or environment.get(NAMESPACE, ""),
        Path(named) if named else None,
    )


def _token(environment: Mapping[str, str]) -> str:
    named = environment.get(TOKEN_FILE)
    where = named or TOKEN
    try:
        token = (Path(named).read_text() if named else environment[TOKEN]).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The token in {where} cannot be read ({error}).") from None
    token = token.removeprefix("Bearer ").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"The token in {where} is empty or no single word of plain letters.")
    return token
