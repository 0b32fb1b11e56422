"""Artifacts to and from the bucket: by content, once, and whole."""

import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import artifacts, progress
from birdsong.aws import refusals, unpacking
from birdsong.aws.clients import Account
from birdsong.aws.settings import JobSettings
from birdsong.errors import ConfigError, DataError, RefusedError


@dataclass(frozen=True)
class Sent:
    """An artifact in the bucket.

    Attributes:
        uri: Its prefix, with a slash at its end.
        sha256: Of the artifact.
        size: Its bytes.
        uploaded: Bytes that had to be sent now.
    """

    uri: str
    sha256: str
    size: int
    uploaded: int


class Bucket:
    """The bucket of a project.

    Args:
        account: Clients.
        settings: Of its jobs; the bucket must belong to the account of their role.
    """

    def __init__(self, account: Account, settings: JobSettings) -> None:
        self._account, self._settings = account, settings
        self._name = settings.bucket
        self._owner = {"ExpectedBucketOwner": settings.role.split(":")[4]}

    def check(self) -> None:
        """Refuse a bucket that the jobs cannot use.

        Raises:
            ConfigError: It is not there, or in another region.
            RefusedError: It belongs to another account, or a permission is missing.
        """

        def question() -> Any:
            try:
                return self._account.s3.get_bucket_location(Bucket=self._name, **self._owner)
            except Exception as error:
                if refusals.code_of(error) in ("AccessDenied", "403"):
                    account = self._owner["ExpectedBucketOwner"]
                    raise RefusedError(
                        f"The bucket {self._name} is not one of the account {account} of the role "
                        f"{self._settings.role}, or the permission s3:GetBucketLocation is missing "
                        f"({refusals.text_of(error)}). Name a bucket of that account in place."
                    ) from error
                raise

        region = self._account.ask("GetBucketLocation", question).get("LocationConstraint")
        region = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(region, region)
        if region != self._account.region:
            raise ConfigError(
                f"The bucket {self._name} is in region {region}, the jobs would run in "
                f"{self._account.region}: SageMaker needs both in one. Set region: {region} in the "
                "file of --sagemaker, or name a bucket of that region in place."
            )

    def put(self, folder: str | Path, tell: Callable[[str], None] = print) -> Sent:
        """Send an artifact where its content says; what is there already is not sent again.

        Its spec.json goes last, so that a prefix which has one is whole.
        """
        spec = artifacts.read_spec(folder)
        size = sum(int(file["bytes"]) for file in spec.files.values())
        prefix = f"{self._key}{spec.kind}/{spec.sha256}/"
        uri = f"s3://{self._name}/{prefix}"
        there = dict(self._list(prefix))
        missing = [
            name for name, file in spec.files.items() if there.get(name) != int(file["bytes"])
        ]
        if not missing and artifacts.SPEC in there:
            tell(f"S3: {uri} is there ({size / 1e6:.1f} MB)")
            return Sent(uri, spec.sha256, size, 0)
        sent = sum(int(spec.files[name]["bytes"]) for name in missing)
        tell(f"S3: sending {sent / 1e6:.1f} MB to {uri}")
        for name in progress.track(missing, len(missing), "upload", "files"):
            self._put(Path(folder) / name, prefix + name)
        self._put(Path(folder) / artifacts.SPEC, prefix + artifacts.SPEC)
        return Sent(uri, spec.sha256, size, sent)

    @property
    def _key(self) -> str:
        key = self._settings.prefix.removeprefix(f"s3://{self._name}").strip("/")
        return f"{key}/" if key else ""

    def _list(self, prefix: str) -> Iterator[tuple[str, int]]:
        def question() -> list[tuple[str, int]]:
            pages = self._account.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=prefix, **self._owner
            )
            return [
                (item["Key"].removeprefix(prefix), int(item["Size"]))
                for page in pages
                for item in page.get("Contents", ())
            ]

        yield from self._account.ask("ListObjectsV2", question)

    def _put(self, file: Path, key: str) -> None:
        extra = dict(self._owner)
        if self._settings.kms_key:
            extra |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._settings.kms_key}
        # The same bytes under the same name: to send them twice is no harm.
        self._account.ask(
            "PutObject",
            lambda: self._account.s3.upload_file(str(file), self._name, key, ExtraArgs=extra),
        )

    def _get(self, uri: str, place: Path) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")

        def question() -> None:
            try:
                self._account.s3.download_file(bucket, key, str(place), ExtraArgs=self._owner)
            except Exception as error:
                if refusals.is_absent(error):
                    raise DataError(f"{uri} is not there: the job wrote no model.") from error
                raise

        self._account.ask("GetObject", question)

    @contextmanager
    def unpacked(self, uri: str, beside: Path) -> Iterator[Path]:
        """What a job left as .tar.gz, in a folder that is removed afterwards.

        Args:
            uri: Of the archive.
            beside: Where room is: the folder is made next to it, so that parts can be renamed.

        Raises:
            DataError: It is absent, or no whole archive.
        """
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(
            tempfile.mkdtemp(prefix=f".{beside.name}.", suffix=".writing", dir=beside.parent)
        )
        try:
            archive, inside = folder / "archive.tar.gz", folder / "inside"
            inside.mkdir()
            self._get(uri, archive)
            try:
                unpacking.unpack(archive, inside)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{uri} is no whole archive ({error}). Run the step again.") from (
                    error
                )
            archive.unlink()
            yield inside
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def place(made: Path, target: str | Path, kind: str) -> None:
    """Put an unpacked artifact into a step's output, after a look at every byte of it.

    Raises:
        DataError: It is not whole, or of another kind.
    """
    artifacts.verify(made)
    artifacts.read_spec(made, kind)
    output = Path(target)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        shutil.rmtree(output)
    made.rename(output)
