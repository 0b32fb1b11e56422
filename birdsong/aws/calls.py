"""Calls to AWS: clients with patient retries, what an error means, and errors in plain words."""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

from birdsong.errors import BirdsongError, ConfigError, StorageError, UnreachableError

READ_TIMEOUT_SECONDS = 60.0
ATTEMPTS = 8
"""Of one call: throttling, 5xx and broken connections are tried again, with jitter."""

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
        return _client(os.getpid(), service, region, endpoint, READ_TIMEOUT_SECONDS)


@functools.cache
def _client(
    process: int, service: str, region: str, endpoint: str | None, read_timeout: float
) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import NoRegionError

    # Names of hosts before the address are AWS's own habit; other servers want the plain path.
    style = {"addressing_style": "path"} if endpoint and service == "s3" else {}
    try:
        return boto3.session.Session(region_name=region or None).client(
            service,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=10,
                read_timeout=read_timeout,
                s3=style,
            ),
        )
    except NoRegionError:
        raise ConfigError(
            "No region of AWS is known: set AWS_DEFAULT_REGION, run `aws configure`, or name it "
            "in the address, as registry=sagemaker://eu-west-1."
        ) from None


def region_of(one: Any) -> str:
    """The region that a client speaks to."""
    return str(one.meta.region_name)


def code_of(error: Exception) -> str:
    """AWS' code of an error, as ThrottlingException; empty for errors of other kinds."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def message_of(error: Exception) -> str:
    """AWS' own words of an error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Message", "")) if isinstance(response, dict) else ""


def is_absent(error: Exception) -> bool:
    """Whether an error says that what was asked for does not exist.

    SageMaker says so by ResourceNotFound for some kinds, and by a ValidationException whose text
    alone tells it from others for jobs, models, endpoints and packages.
    """
    code, message = code_of(error), message_of(error)
    if code in ("ResourceNotFound", "ResourceNotFoundException", "404", "NoSuchKey", "NotFound"):
        return True
    return code == "ValidationException" and bool(
        re.search(
            r"could not find|not found|does not exist|can.?not find|can't find", message, re.I
        )
    )


def is_taken(error: Exception) -> bool:
    """Whether an error says that the name exists already.

    Also where our own first try was carried out and its answer lost on the way.
    """
    code, message = code_of(error), message_of(error)
    if code in ("ResourceInUse", "ConflictException"):
        return True
    return code == "ValidationException" and bool(
        re.search(r"already exist|must be unique", message, re.I)
    )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        what: What was worked with, for the text: `the endpoint birdsong`.
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
        raise explained(what, error) from error


def explained(what: str, error: Exception) -> BirdsongError:
    """An error of the SDK in words that say what to do."""
    kind, code, message = type(error).__name__, code_of(error), message_of(error)
    call = getattr(error, "operation_name", "") or "a call"
    if "Credential" in kind or kind in ("ProfileNotFound", "TokenRetrievalError"):
        return StorageError(
            f"{what}: no AWS credentials were found ({error}). Run `aws configure`, set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role "
            "(k8s/overlays/aws-role)."
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
        return StorageError(
            f"{what}: the AWS credentials have expired ({call}: {message}). Log in again (`aws sso "
            "login`), or give the pod a role, whose credentials renew themselves; then resume the "
            "run. Nothing is done twice."
        )
    if code in ("UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        return StorageError(f"{what}: AWS does not know these credentials ({call}: {message}).")
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"):
        return StorageError(
            f"{what}: access was refused ({call}: {message}). The role or user needs what "
            "birdsong/aws/policies/pipeline.json allows, with your account, region and bucket."
        )
    if code in ("ResourceLimitExceeded", "LimitExceeded"):
        return ConfigError(
            f"{what}: a quota of the account is reached ({call}: {message}). Ask for a higher one "
            "in the console under Service Quotas, Amazon SageMaker, by the quota's name in the "
            "text above; or take another instance type."
        )
    if code == "NoSuchBucket":
        return ConfigError(f"{what}: the bucket does not exist ({message}). Check its name.")
    if code in ("ThrottlingException", "Throttling", "TooManyRequestsException", "SlowDown"):
        return UnreachableError(
            f"{what}: AWS limits the rate of calls ({call}), also after {ATTEMPTS} tries. Wait a "
            "while, then resume the run; nothing is done twice."
        )
    status = 0
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status >= 500 or not code:
        return UnreachableError(
            f"{what}: AWS did not answer as it should ({call}: {error}), also after {ATTEMPTS} "
            "tries. Check the network and AWS_ENDPOINT_URL, then resume the run; nothing is done "
            "twice."
        )
    return StorageError(f"{what}: {call} was refused: {code}: {message}")
