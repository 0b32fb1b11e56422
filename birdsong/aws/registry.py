"""SageMaker's Model Registry: a version is a model package in the group named like the model.

The bundle lies in S3 as model.tar.gz under its own hash, once, and the version's card (the bundle's
and what it cost) under the card's. A package's description says which bundle it holds, so that one
listing finds it; what else is known stands in its customer metadata and in SageMaker's own card.
boto3 and not sagemaker.core: `ModelPackage.create` of 3.27 raises after it made the package.
"""

import gzip
import hashlib
import re
import tarfile
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong import artifacts, bundle, bundle_cache, cost, gates
from birdsong.aws import calls, refusals, unpacking
from birdsong.aws.package_card import model_package_card
from birdsong.aws.registry_place import BucketPlace
from birdsong.config import RegisterConfig
from birdsong.errors import ConfigError, DataError
from birdsong.gates import Verdict
from birdsong.versions import CHAMPION, Made, Version

APPROVED, PENDING, REJECTED = "Approved", "PendingManualApproval", "Rejected"
CONTENT_TYPES = (
    *("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg"),
    *("application/octet-stream", "application/json"),
)
MOST_PROPERTIES, LONGEST_VALUE, LONGEST_TEXT = 50, 256, 1024
_BUNDLE = re.compile(r"bundle ([0-9a-f]{64})\b\W*(.*)", re.DOTALL)
_IMAGE = re.compile(
    r"^\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[a-z0-9._/-]+(:[\w.-]+|@sha256:[0-9a-f]{64})$"
)


class PackageShelf:
    """A model package group for each name."""

    def __init__(self, place: BucketPlace, config: RegisterConfig, origin: str = "") -> None:
        self._place, self._config, self._origin = place, config, origin
        self._sagemaker, self._s3 = place.clients()

    @property
    def uri(self) -> str:
        return str(self._place)

    def versions(self, name: str) -> list[Version]:
        pages = self._sagemaker.get_paginator("list_model_packages").paginate(
            ModelPackageGroupName=name, ModelPackageType="Versioned"
        )
        try:
            found = [
                self._version(name, entry)
                for page in pages
                for entry in page["ModelPackageSummaryList"]
            ]
        except Exception as error:
            if refusals.is_absent(error):
                return []
            raise
        found.sort(key=lambda version: -version.version)
        return _with_champion(found)

    def find(self, name: str, sha256: str) -> Version | None:
        same = [one for one in self.versions(name) if one.bundle_sha256 == sha256]
        return self.get(name, str(same[-1].version)) if same else None

    def champion(self, name: str) -> Version | None:
        """The newest approved version."""
        return next((one for one in self.versions(name) if CHAMPION in one.aliases), None)

    def get(self, name: str, number: str) -> Version:
        for one in self.versions(name):
            if str(one.version) == number:
                told = self._sagemaker.describe_model_package(ModelPackageName=one.arn)
                return self._version(name, told, one.aliases)
        raise ConfigError(f"The registry {self.uri} has no version {number} of {name}.")

    def _version(
        self, name: str, entry: Mapping[str, Any], aliases: tuple[str, ...] = ()
    ) -> Version:
        approval = str(entry.get("ModelApprovalStatus", PENDING))
        described = entry.get("ModelPackageDescription") or ""
        known = _BUNDLE.match(described)
        sha256, first = (known[1], known[2]) if known else ("", described)
        return Version(
            name=name,
            version=int(entry["ModelPackageVersion"]),
            status="rejected" if approval == REJECTED else "registered",
            # What the gate said at first; what it, or a person, said later.
            reason=str(entry.get("ApprovalDescription") or first),
            uri=f"s3://{self._place.bucket}/{self._key(sha256)}" if sha256 else "",
            bundle_sha256=sha256,
            aliases=aliases,
            created=entry["CreationTime"].timestamp(),
            arn=str(entry["ModelPackageArn"]),
            approval=approval,
        )

    def _key(self, sha256: str, name: str = "model.tar.gz") -> str:
        return self._place.key("bundles", sha256, name)

    # --- writing --------------------------------------------------------------------------------

    def publish(self, name: str, made: Made, known: Version | None, verdict: Verdict) -> Version:
        """Make a package whose approval says what the gate said.

        The token is the bundle's: where an answer is lost on the way and the call repeated,
        SageMaker answers with the package that is there; where another run makes it in the same
        moment, with it or with a conflict.
        """
        check_name(name)
        approval = _approval(verdict, self._config)
        if known is not None:
            self._sagemaker.update_model_package(
                ModelPackageArn=known.arn,
                ModelApprovalStatus=approval,
                ApprovalDescription=verdict.reason[:LONGEST_TEXT],
            )
            return self.get(name, str(known.version))
        image = check_image(self._config.serve_image)
        sha256 = made.sha256
        model, card = self._upload(made)
        self._ensure_group(name)
        request = {
            "ModelPackageGroupName": name,
            "ModelPackageDescription": " ".join(f"bundle {sha256}. {verdict.reason}".split())[
                :LONGEST_TEXT
            ],
            "ModelApprovalStatus": approval,
            "ClientToken": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._place}/{name}/{sha256}")),
            "InferenceSpecification": {
                "Containers": [{"Image": image, "ModelDataUrl": model}],
                "SupportedContentTypes": list(CONTENT_TYPES),
                "SupportedResponseMIMETypes": ["application/json"],
            },
            "ModelMetrics": {
                "ModelQuality": {
                    "Statistics": {
                        "ContentType": "application/json",
                        "S3Uri": f"s3://{self._place.bucket}/{self._key(sha256, bundle.METRICS)}",
                    }
                }
            },
            "CustomerMetadataProperties": self._properties(made, card, verdict),
            "ModelCard": model_package_card(made, model, card),
        }
        try:
            arn = self._sagemaker.create_model_package(**request)["ModelPackageArn"]
        except Exception as error:
            # Two runs, whose costs or places differ, register the same bundle at once.
            if calls.is_taken(error) and (other := self.find(name, sha256)) is not None:
                return other
            raise
        return self.get(name, arn.rpartition("/")[2])

    def _ensure_group(self, name: str) -> None:
        try:
            self._sagemaker.describe_model_package_group(ModelPackageGroupName=name)
            return
        except Exception as error:
            if not refusals.is_absent(error):
                raise
        try:
            self._sagemaker.create_model_package_group(
                ModelPackageGroupName=name,
                ModelPackageGroupDescription="Birdsong classifiers, a version for each bundle.",
                Tags=[{"Key": "birdsong:project", "Value": "birdsong"}],
            )
        except Exception as error:
            if not calls.is_taken(error):
                raise

    def _upload(self, made: Made) -> tuple[str, str]:
        """The bundle as model.tar.gz, once, with its metrics beside it to be read; and the card.

        The card is named by its own content: the same bundle may have cost something else, and no
        card replaces another.

        Returns:
            URIs of model.tar.gz and of the card.
        """
        place, sha256 = self._place, made.sha256
        uri = f"s3://{place.bucket}/{self._key(sha256)}"
        text = made.card.encode()
        card = place.key("cards", f"{hashlib.sha256(text).hexdigest()}.md")
        figures = (made.folder / bundle.METRICS).read_bytes()
        for key, body, kind in (
            (self._key(sha256, bundle.METRICS), figures, "application/json"),
            (card, text, "text/markdown; charset=utf-8"),
        ):
            self._s3.put_object(Bucket=place.bucket, Key=key, Body=body, ContentType=kind)
        told = uri, f"s3://{place.bucket}/{card}"
        try:
            self._s3.head_object(Bucket=place.bucket, Key=self._key(sha256))
            print(f"The bundle is already at {uri}.")
            return told
        except Exception as error:
            if not refusals.is_absent(error):
                raise
        with tempfile.TemporaryDirectory() as aside:
            packed = Path(aside) / "model.tar.gz"
            pack(made.folder, packed)
            print(f"Uploading the bundle, {packed.stat().st_size / 1e6:.1f} MB, to {uri}.")
            self._s3.upload_file(str(packed), place.bucket, self._key(sha256))
        return told

    def _properties(self, made: Made, card: str, verdict: Verdict) -> dict[str, str]:
        """Lineage, headline figures and cost, within SageMaker's limits."""
        data = artifacts.read_json(made.folder / bundle.BUNDLE)["data"]
        found = {"bundle_sha256": made.sha256, "origin": self._origin, "gate": self._config.gate}
        found["model_card"] = card
        for kind, spec in data.items():
            found[f"{kind}_sha256"] = spec["sha256"]
            found |= {f"{name}_sha256": value for name, value in spec["made_from"].items()}
        figures = gates.headline(artifacts.read_json(made.folder / bundle.METRICS))
        figures |= verdict.figures | cost.figures(made.spent)
        found |= {name: f"{value:.6g}" for name, value in figures.items()}
        clean = {
            name[:128]: re.sub(r"[^\w.:/=+@ -]", "_", str(value))[:LONGEST_VALUE]
            for name, value in found.items()
            if str(value)
        }
        return dict(list(clean.items())[:MOST_PROPERTIES])

    # --- reading a bundle -----------------------------------------------------------------------

    def fetch(self, version: Version) -> Path:
        if not version.bundle_sha256:
            raise DataError(
                f"{version.name} version {version.version} was not registered by birdsong: its "
                "description names no bundle."
            )

        def download(aside: Path) -> Path:
            archive, inside = aside / "model.tar.gz", aside / "bundle"
            self._s3.download_file(
                self._place.bucket, self._key(version.bundle_sha256), str(archive)
            )
            try:
                unpacking.unpack(archive, inside)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{version.uri} is no whole archive ({error}).") from error
            _check(inside, version)
            return inside

        return _check(bundle_cache.folder(version.bundle_sha256, download), version)


def check_name(name: str) -> None:
    """Refuse a name that no group can have.

    Raises:
        ConfigError: It has other characters, or is too long.
    """
    if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name):
        raise ConfigError(
            f"model_name {name!r}: SageMaker's groups are named by letters, digits and hyphens "
            "between them, at most 63."
        )


def check_image(image: str) -> str:
    """An image's address, where it is one in ECR.

    Raises:
        ConfigError: It is not.
    """
    if not _IMAGE.match(image):
        raise ConfigError(
            f"serve_image is {image!r}: SageMaker's registry needs the image serve in ECR, as "
            "ACCOUNT.dkr.ecr.REGION.amazonaws.com/birdsong-python-serve:TAG-sagemaker. Push it "
            "(make images; docker push) and give --set serve_image=."
        )
    return image


def _check(folder: Path, version: Version) -> Path:
    bundle.verify_bundle(folder)
    if bundle.bundle_sha256(folder) != version.bundle_sha256:
        raise DataError(
            f"{version.uri} is not the bundle that {version.name} version {version.version} was "
            "registered with. Register the model again."
        )
    return folder


def _approval(verdict: Verdict, config: RegisterConfig) -> str:
    if not verdict.accepted:
        return REJECTED
    return APPROVED if config.approval == "gate" else PENDING


def _with_champion(versions: list[Version]) -> list[Version]:
    """Let the newest approved version carry the alias."""
    import dataclasses

    for place, one in enumerate(versions):
        if one.approval == APPROVED:
            versions[place] = dataclasses.replace(one, aliases=(CHAMPION,))
            break
    return versions


def pack(folder: Path, target: Path) -> None:
    """Pack a folder's contents as SageMaker unpacks them under /opt/ml/model; the same contents
    give the same bytes."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w|") as archive,
    ):
        for place in sorted(folder.iterdir()):
            archive.add(place, place.name, filter=plain)
