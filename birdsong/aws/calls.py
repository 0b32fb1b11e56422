"""Calls to AWS of register and deploy: clients to share, and errors in plain words."""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

from birdsong.aws import refusals
from birdsong.aws.clients import Account
from birdsong.errors import BirdsongError, ConfigError

_LOCK = threading.RLock()


def client(service: str, region: str = "") -> Any:
    """A boto3 client, one for each process, service and region.

    Args:
        service: As sagemaker, logs or s3.
        region: Empty: as the surroundings say (AWS_REGION, the profile).

    Raises:
        ConfigError: No region is known.
    """
    with _LOCK:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        return _client(os.getpid(), service, region, endpoint)


@functools.cache
def _client(process: int, service: str, region: str, endpoint: str | None) -> Any:
    return Account(region).client(service)


def region_of(one: Any) -> str:
    """The region that a client speaks to."""
    return str(one.meta.region_name)


def is_taken(error: Exception) -> bool:
    """Whether an error says that the name exists already.

    Also where our own first try was carried out and its answer lost on the way.
    """
    if refusals.code_of(error) in (*refusals.USED, "ConflictException"):
        return True
    return refusals.code_of(error) == "ValidationException" and bool(
        re.search(r"already exist|must be unique", refusals.text_of(error), re.I)
    )


@contextlib.contextmanager
def told(what: str, region: str = "") -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        what: What was worked with, for the text: `the endpoint birdsong`.
        region: Where, for what is said of quotas; empty: as the surroundings say.
    """
    try:
        yield
    except BirdsongError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("boto", "s3transfer", "urllib3")):
            raise
        if type(error).__name__ == "ParamValidationError":  # our own mistake, not AWS'
            raise
        call = getattr(error, "operation_name", "")
        if refusals.code_of(error) == "NoSuchBucket":
            raise ConfigError(
                f"{what}: the bucket does not exist ({refusals.text_of(error)}). Check its name."
            ) from error
        where = region or os.environ.get("AWS_DEFAULT_REGION", "")
        raise refusals.explained(f"{what}: {call}" if call else what, error, where) from error
