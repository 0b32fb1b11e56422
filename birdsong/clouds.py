"""The SDKs of the clouds: clients, retries of what a retry can mend, errors in plain words."""

import functools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from birdsong.errors import BirdsongError, DataError, StorageError, UnreachableError

T = TypeVar("T")

_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
_CLIENT_LOCK = threading.RLock()


def s3() -> Any:
    """The client for s3://, one for each process."""
    with _CLIENT_LOCK:
        return _s3_of(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


@functools.cache
def _s3_of(process: int, endpoint: str | None) -> Any:
    import boto3
    from botocore.config import Config

    # Names of hosts before the address are AWS's own habit; other servers want the plain path.
    style = {"addressing_style": "path"} if endpoint else {}
    return boto3.session.Session().client(
        "s3",
        config=Config(
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=64,
            connect_timeout=10,
            read_timeout=60,
            s3=style,
        ),
    )


def gs() -> Any:
    """The client for gs://, one for each process."""
    with _CLIENT_LOCK:
        return _gs_of(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))


@functools.cache
def _gs_of(process: int, endpoint: str | None) -> Any:
    from google.cloud import storage as google_storage

    return google_storage.Client()


def attempt(uri: str, action: Callable[[], T]) -> T:
    """Do something over the network, again after a wait where a retry can mend it."""
    waits = iter(_WAITS_SECONDS)
    while True:
        try:
            return action()
        except BirdsongError:
            raise
        except Exception as error:
            # The SDKs' errors share no base class; what cannot be mended is explained, not retried.
            wait = next(waits, None)
            if wait is None or not _passes(error):
                raise explained(uri, error) from error
        time.sleep(wait * random.uniform(0.8, 1.2))


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = getattr(error, "code", 0)
    return code if isinstance(code, int) else 0


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if _status(error):
        return _status(error) in {408, 429} or _status(error) >= 500
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names
        & {
            "HTTPClientError",
            "ConnectionError",
            "IncompleteReadError",
            "ResponseStreamingError",
            "ChunkedEncodingError",
            "ProtocolError",
            "Timeout",
            "RetryError",
        }
    )


class AbsentError(StorageError):
    """A place is reachable, but there is nothing at it."""


def absent(uri: str) -> AbsentError:
    """The error of a place that is not there."""
    return AbsentError(f"{uri} does not exist. Check the bucket and the path.")


def explained(uri: str, error: Exception) -> BirdsongError:
    """An error of an SDK in words that say what to do."""
    if isinstance(error, BirdsongError):
        return error
    if isinstance(error, ImportError):
        return StorageError(f"{uri} needs a package that is not here ({error}): birdsong[data].")
    kind, status = type(error).__name__, _status(error)
    scheme, _, rest = uri.partition("://")
    bucket = rest.partition("/")[0]
    owner = "AWS" if scheme == "s3" else "Google Cloud"
    login = (
        "run `aws configure`, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a "
        "role"
        if scheme == "s3"
        else "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or "
        "give the pod a service account"
    )
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if "Credential" in kind or kind in {"RefreshError", "ProfileNotFound", "TokenRetrievalError"}:
        return StorageError(f"{uri}: no valid {owner} credentials were found ({error}): {login}.")
    if code == "NoSuchBucket":
        return StorageError(
            f"{uri}: the bucket {bucket!r} does not exist. Check its name, and AWS_ENDPOINT_URL "
            "where it is not on AWS."
        )
    if status in {401, 403}:
        return StorageError(
            f"{uri}: access was refused ({code or status}). The credentials must allow listing the "
            f"bucket {bucket!r} and reading its objects; for others {login}."
        )
    if status == 404:
        return absent(uri)
    if status == 416:
        return DataError(f"{uri} is shorter than expected; it changed or is damaged.")
    if _passes(error):
        return UnreachableError(
            f"{uri} cannot be reached: {error}. Check the network and the endpoint, and run again."
        )
    return StorageError(f"{uri} cannot be read: {kind}: {error}.")
