"""What SageMaker itself does with S3: channels and checkpoints in, checkpoints and model out."""

import io
import tarfile
from pathlib import Path
from typing import Any

from sagemaker_server.api import ApiError


def split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def check(client: Any, uri: str, region: str) -> None:
    """Refuse a place as CreateTrainingJob does."""
    bucket, key = split(uri)
    try:
        place = client.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
    except client.exceptions.ClientError:
        raise ApiError(
            "ValidationException",
            f"S3 bucket {bucket} does not exist, or you do not have the permission for it.",
        ) from None
    if place != region:
        raise ApiError(
            "ValidationException",
            f"The S3 bucket '{bucket}' is in region '{place}', but the request was made in region "
            f"'{region}'. The bucket must be in the same region as the training job.",
        )
    if not client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)["KeyCount"]:
        raise ApiError(
            "ValidationException",
            f"No S3 objects found under S3 URL '{uri}' given in input data source. Please ensure "
            "that the bucket exists in the selected region.",
        )


def down(client: Any, uri: str, folder: Path) -> None:
    """Copy all below a prefix; a plain prefix, so `run-1` takes `run-10` along."""
    bucket, prefix = split(uri)
    base = prefix if prefix.endswith("/") else prefix.rpartition("/")[0] + "/" * ("/" in prefix)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    whole = f"{prefix}/"
    for page in pages:
        for item in page.get("Contents", ()):
            key = item["Key"]
            start = whole if key.startswith(whole) else base
            place = folder / key.removeprefix(start)
            place.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(place))


class Mirror:
    """Keeps a prefix like a folder: new and changed files go up, deleted ones are deleted."""

    def __init__(self, client: Any, folder: Path, uri: str) -> None:
        self._client, self._folder = client, folder
        self._bucket, self._prefix = split(uri)
        self._known = self._state()

    def _state(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in self._folder.rglob("*"):
            try:
                state = file.stat()
            except FileNotFoundError:  # renamed meanwhile
                continue
            if file.is_file():
                found[file.relative_to(self._folder).as_posix()] = (
                    state.st_mtime_ns,
                    state.st_size,
                )
        return found

    def sync(self) -> None:
        state = self._state()
        for name, stamp in state.items():
            if self._known.get(name) != stamp:
                try:
                    self._client.upload_file(
                        str(self._folder / name), self._bucket, self._key(name)
                    )
                except FileNotFoundError:  # renamed meanwhile
                    continue
        for name in set(self._known) - set(state):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
        self._known = state

    def _key(self, name: str) -> str:
        return f"{self._prefix.rstrip('/')}/{name}"


def put_tar(client: Any, folder: Path, uri: str) -> None:
    """Pack a folder's contents as model.tar.gz has them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for place in sorted(folder.iterdir()):
            archive.add(place, place.name)
    buffer.seek(0)
    bucket, key = split(uri)
    client.upload_fileobj(buffer, bucket, key)
