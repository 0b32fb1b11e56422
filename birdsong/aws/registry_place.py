"""Where SageMaker's registry is for us: a bucket for the bundles; its region is the registry's."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from birdsong.aws import calls
from birdsong.errors import ConfigError


@dataclass(frozen=True)
class BucketPlace:
    """A bucket and a prefix, and the region of both.

    Attributes:
        bucket: Its name.
        prefix: Where the bundles lie in it, without slashes at its ends; may be empty.
        region: Empty: the bucket's own.
    """

    bucket: str
    prefix: str
    region: str

    @classmethod
    def parse(cls, registry: str) -> "BucketPlace":
        """Read sagemaker://BUCKET/PREFIX, optionally with ?region=REGION.

        Raises:
            ConfigError: It is not in that form.
        """
        parts = urlsplit(registry.strip())
        asked = parse_qs(parts.query)
        bucket, region = parts.netloc, (asked.pop("region", [""]) or [""])[0]
        if (
            parts.scheme != "sagemaker"
            or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket)
            or asked
            or not re.fullmatch(r"[A-Za-z0-9._/-]*", parts.path)
            or not re.fullmatch(r"([a-z0-9-]+)?", region)
        ):
            raise ConfigError(
                f"registry {registry!r} is not understood: give sagemaker://BUCKET/PREFIX with a "
                "bucket of your account, for example sagemaker://my-birds/birdsong. Versions are "
                "kept in the model package group that is named like the model, in the bucket's "
                "region (or the one of ?region=)."
            )
        return cls(bucket, parts.path.strip("/"), region)

    def __str__(self) -> str:
        tail = f"/{self.prefix}" if self.prefix else ""
        asked = f"?region={self.region}" if self.region else ""
        return f"sagemaker://{self.bucket}{tail}{asked}"

    def key(self, *parts: str) -> str:
        """A key below the prefix."""
        return "/".join(part for part in (self.prefix, *parts) if part)

    def clients(self) -> tuple[Any, Any]:
        """Clients of SageMaker and of S3 in the registry's region.

        Raises:
            ConfigError: The bucket does not exist.
        """
        region = self.region or _region(self.bucket)
        return calls.client("sagemaker", region), calls.client("s3", region)


def _region(bucket: str) -> str:
    # Asked of the oldest region, which answers for buckets of all.
    answer = calls.client("s3", "us-east-1").get_bucket_location(Bucket=bucket)
    found = answer.get("LocationConstraint") or "us-east-1"
    return "eu-west-1" if found == "EU" else str(found)
