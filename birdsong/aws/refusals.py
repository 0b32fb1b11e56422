"""Errors of AWS in words that say what happened and what to do."""

import re

from birdsong.errors import (
    BirdsongError,
    ConfigError,
    RefusedError,
    StorageError,
    UnreachableError,
)

USED = ("ResourceInUse", "ResourceInUseException")
"""Codes for a name that is used already."""

_THROTTLED = (
    *("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"),
    *("SlowDown", "RequestThrottled", "ProvisionedThroughputExceededException"),
)
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId")
_WRONG_KEYS = ("UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_DENIED = ("AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "403", "Forbidden")
_LIMIT = ("ResourceLimitExceeded", "LimitExceededException")
_NETWORK = {
    *("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError"),
    *("ProtocolError", "Timeout", "EndpointConnectionError"),
}


def code_of(error: Exception) -> str:
    """AWS' code of an error; empty where it is none of AWS."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def text_of(error: Exception) -> str:
    """AWS' text of an error."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Message", "") if isinstance(response, dict) else ""
    return str(found or error)


def status_of(error: Exception) -> int:
    """HTTP status of an error, 0 where there was no answer."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_absent(error: Exception) -> bool:
    """Whether a description failed since there is no such thing.

    AWS says so by ResourceNotFound for tuning jobs, and by a text of ValidationException for
    training jobs.
    """
    code, text = code_of(error), text_of(error).lower()
    if code in ("ResourceNotFound", "ResourceNotFoundException", "NoSuchKey", "404", "NotFound"):
        return True
    return code == "ValidationException" and any(
        words in text
        for words in ("not found", "could not find", "does not exist", "can't find", "cannot find")
    )


def is_over(error: Exception) -> bool:
    """Whether a stop was refused since the job is over or stopping already."""
    return code_of(error) == "ValidationException" and "in status" in text_of(error).lower()


def passes(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if code_of(error) in _THROTTLED or status_of(error) >= 500 or status_of(error) in (408, 429):
        return True
    return not status_of(error) and bool({kind.__name__ for kind in type(error).__mro__} & _NETWORK)


def no_region() -> ConfigError:
    """The error of a region that nobody named."""
    return ConfigError(
        "No AWS region is known. Set region in the file of --sagemaker, AWS_DEFAULT_REGION, or "
        "`aws configure set region`."
    )


def explained(what: str, error: Exception, region: str) -> BirdsongError:
    """An error of the SDK in plain words.

    Args:
        what: The action, as CreateTrainingJob.
        error: As boto3 raised it.
        region: Of the client.
    """
    if isinstance(error, BirdsongError):
        return error
    code, text, kind = code_of(error), text_of(error), type(error).__name__
    if code in _THROTTLED:
        return UnreachableError(
            f"{what}: AWS takes no more requests now ({code}). It was asked again for a while; "
            "start the step again later, it will find its job."
        )
    if code in _EXPIRED:
        return RefusedError(
            f"{what}: the AWS credentials are no longer valid ({code}). Log in again (aws sso "
            "login, or new keys in the secret), then resume the run: a job that goes on is found "
            "again."
        )
    if code in _WRONG_KEYS or "Credential" in kind or kind in ("ProfileNotFound", "TokenError"):
        return RefusedError(
            f"{what}: no valid AWS credentials were found ({code or error}). Run `aws configure`, "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role."
        )
    if code in _DENIED:
        return RefusedError(_denied(what, text))
    if code in _LIMIT:
        return RefusedError(quota(text, region))
    if "is in region" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return ConfigError(
            f"{what}: the bucket is in another region than the jobs ({region}): {text} Set region "
            "in the file of --sagemaker to the bucket's, or name a bucket of that region."
        )
    if code == "NoSuchBucket":
        return ConfigError(f"{what}: {text} Check place in the file of --sagemaker.")
    if passes(error):
        return UnreachableError(f"{what}: AWS cannot be reached: {error}")
    if code == "ValidationException":
        return ConfigError(f"{what}: AWS refuses the request: {text}")
    return StorageError(f"{what}: {kind}: {error}")


def _denied(what: str, text: str) -> str:
    wanted = re.search(r"perform: ([\w:-]+)", text)
    action = wanted[1] if wanted else what
    if "iam:PassRole" in text:
        action = "iam:PassRole"
    return (
        f"{what}: AWS denies it ({text}). The credentials of the step need the permission "
        f"{action}; birdsong/aws/policies holds the smallest policies."
    )


def quota(text: str, region: str) -> str:
    """What a quota is called, and how a higher one is had.

    Args:
        text: AWS' message, as "The account-level service limit 'ml.g5.4xlarge for spot training
            job usage' is 0 Instances, ...".
        region: Where it holds.
    """
    named = re.search(r"'([^']+)'", text)
    told = f": {named[1]}" if named else ""
    name = f"'{named[1]}'" if named else "the instance's name"
    return (
        f"The account's quota is used up{told}. AWS says: {text} Ask for a higher one: console, "
        f"Service Quotas, Amazon SageMaker, region {region}, search {name}, Request increase "
        "(hours to days; a new account has 0 for many GPU machines); or `aws service-quotas "
        f"list-service-quotas --service-code sagemaker --region {region}` for its code, then "
        "`aws service-quotas request-service-quota-increase`. Meanwhile take another instance or "
        "spot: false in the file of --sagemaker."
    )


def capacity(reason: str, instance: str, *, spot: bool) -> str:
    """What to do when AWS has no machine."""
    kind = "spot machine" if spot else "machine"
    return (
        f"AWS has no {kind} {instance} now ({reason}). Resume the run later, take another "
        "instance" + (", or spot: false" if spot else "") + " in the file of --sagemaker."
    )
