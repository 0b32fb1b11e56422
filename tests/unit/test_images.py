"""Names of images: the fingerprint is the tag, and the environment can say otherwise."""

import subprocess
import sys

import pytest

from birdsong import image_code
from birdsong.errors import ConfigError
from components import images

VARIABLES = (
    "BIRDSONG_REGISTRY",
    "BIRDSONG_IMAGE_TAG",
    "BIRDSONG_IMAGE_TRAIN",
    "BIRDSONG_IMAGE_TRAIN_SAGEMAKER",
)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("target", ["data", "train", "cloud", "serve"])
def test_the_tag_is_the_fingerprint_of_what_goes_into_the_image(target: str) -> None:
    name, _, tag = images.reference(target).partition(":")
    assert name == f"birdsong-python-{target}"
    assert tag == image_code.fingerprint(target)[: images.TAG_LENGTH]
    assert len(tag) == 12


def test_registry_and_tag_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDSONG_REGISTRY", "ghcr.io/me/")
    monkeypatch.setenv("BIRDSONG_IMAGE_TAG", "1.2.3")
    assert images.reference("data") == "ghcr.io/me/birdsong-python-data:1.2.3"


def test_one_image_can_be_named_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDSONG_REGISTRY", "ghcr.io/me")
    monkeypatch.setenv("BIRDSONG_IMAGE_TRAIN", "elsewhere/trainer@sha256:00")
    assert images.reference("train") == "elsewhere/trainer@sha256:00"
    assert images.reference("data").startswith("ghcr.io/me/birdsong-python-data:")


def test_the_image_for_sagemaker_is_named_after_the_plain_one_or_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert images.for_sagemaker("train") == f"{images.reference('train')}-sagemaker"
    monkeypatch.setenv("BIRDSONG_IMAGE_TRAIN", "elsewhere/trainer@sha256:00")
    with pytest.raises(ConfigError, match="BIRDSONG_IMAGE_TRAIN_SAGEMAKER"):
        images.for_sagemaker("train")
    monkeypatch.setenv("BIRDSONG_IMAGE_TRAIN_SAGEMAKER", "elsewhere/trainer@sha256:01")
    assert images.for_sagemaker("train") == "elsewhere/trainer@sha256:01"


def test_stages_get_the_image_of_their_kind_of_work() -> None:
    code = (
        "from birdsong import image_code\n"
        "from components import images\n"
        "from importlib import import_module\n"
        "for target, stages in image_code.STAGES.items():\n"
        "    for stage in stages:\n"
        "        made = getattr(import_module(f'components.{stage}'), stage)\n"
        "        spec = made.component_spec.implementation.container\n"
        "        assert spec.image == images.reference(target), (stage, spec.image)\n"
        "        assert not spec.image.endswith(':latest')\n"
        "print('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr
