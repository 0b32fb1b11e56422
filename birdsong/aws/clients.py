"""Clients of AWS, with patience: throttling and a broken network are waited out, with jitter."""

import os
import random
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from birdsong.aws import refusals
from birdsong.errors import BirdsongError

T = TypeVar("T")

ATTEMPTS = 8
"""Of one request by the SDK itself, with full jitter between them."""

PATIENCE_SECONDS = 600.0
"""How long a question (not a wish to make something) is asked again after that."""

_LONGEST_WAIT = 60.0


class Account:
    """Clients for one region.

    Args:
        region: Empty: as the SDK finds it.
        patience: Seconds that a question is asked again.

    Raises:
        ConfigError: No region is known.
    """

    def __init__(self, region: str = "", patience: float = PATIENCE_SECONDS) -> None:
        import boto3

        self._session = boto3.session.Session(region_name=region or None)
        if not self._session.region_name:
            raise refusals.no_region()
        self.region: str = self._session.region_name
        self.patience = patience

    def client(self, service: str) -> Any:
        """A client of a service, as boto3 names it."""
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=10,
            read_timeout=float(os.environ.get("BIRDSONG_AWS_TIMEOUT", "60")),
            # Names of hosts before the address are AWS's own habit; other servers want the path.
            s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else {},
        )
        try:
            return self._session.client(service, config=config)
        except Exception as error:
            raise refusals.explained("aws", error, self.region) from error

    @cached_property
    def sagemaker(self) -> Any:
        """Client of SageMaker."""
        return self.client("sagemaker")

    @cached_property
    def logs(self) -> Any:
        """Client of CloudWatch logs."""
        return self.client("logs")

    @cached_property
    def s3(self) -> Any:
        """Client of S3."""
        return self.client("s3")

    @cached_property
    def quotas(self) -> Any:
        """Client of Service Quotas."""
        return self.client("service-quotas")

    def ask(self, what: str, question: Callable[[], T]) -> T:
        """Ask something that changes nothing, again and again where that can help.

        Args:
            what: Name of the action, for errors.
            question: The request.

        Raises:
            BirdsongError: It was refused, or did not get through for `patience` seconds.
        """
        began, wait = time.monotonic(), 1.0
        while True:
            try:
                return question()
            except BirdsongError:
                raise
            except Exception as error:
                over = time.monotonic() - began > self.patience
                if over or not refusals.passes(error):
                    raise refusals.explained(what, error, self.region) from error
                print(f"SageMaker: {what} did not get through ({error}). Asking again.", flush=True)
            time.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, _LONGEST_WAIT)

    def make(self, what: str, wish: Callable[[], T]) -> T:
        """Make something; errors in words that say what to do.

        The SDK repeats a wish that did not get through. If an earlier one was carried out all the
        same, AWS says that the name is used, which is for the caller to understand.
        """
        try:
            return wish()
        except BirdsongError:
            raise
        except Exception as error:
            if refusals.code_of(error) in refusals.USED:
                raise
            raise refusals.explained(what, error, self.region) from error
