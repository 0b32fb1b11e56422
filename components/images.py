"""Names of the container images: the only reader of registry and tag.

    [BIRDSONG_REGISTRY/]birdsong-python-TARGET:TAG

The tag is the fingerprint of the code and the requirements that go into the image, never `latest`:
an edited file gives another name, so no runner and no cache takes an image of older code for it.
These variables of the environment change the names:

    BIRDSONG_REGISTRY       where a cluster pulls from, such as ghcr.io/me; empty for this machine
    BIRDSONG_IMAGE_TAG      one tag for all images instead of the fingerprints, as of a release
    BIRDSONG_ACCELERATOR    gpu for the image train with CUDA's libraries: its tag ends in -gpu
    BIRDSONG_IMAGE_TRAIN    the whole reference of one image; also _DATA, _CLOUD, _SERVE, and
                            _TRAIN_SAGEMAKER, _SERVE_SAGEMAKER
"""

import os

from birdsong import image_code
from birdsong.errors import ConfigError

TAG_LENGTH = 12
"""Hexadecimal digits of the fingerprint in a tag."""


def reference(target: str) -> str:
    """The image of a target, as a container engine and a cluster name it.

    Args:
        target: data, train, cloud or serve.
    """
    whole = os.environ.get(f"BIRDSONG_IMAGE_{target.upper()}", "")
    if whole:
        return whole
    tag = os.environ.get("BIRDSONG_IMAGE_TAG") or image_code.fingerprint(target)[:TAG_LENGTH]
    if target == "train" and os.environ.get("BIRDSONG_ACCELERATOR") == "gpu":
        tag += "-gpu"
    # The name contains "python", or kfp's local runner warns at every stage.
    name = f"{image_code.NAME}{target}:{tag}"
    registry = os.environ.get("BIRDSONG_REGISTRY", "").rstrip("/")
    return f"{registry}/{name}" if registry else name


def for_sagemaker(target: str) -> str:
    """The image of a target as SageMaker runs it: the same layers, as root.

    Args:
        target: train or serve.

    Raises:
        ConfigError: The image is named by a digest, and SageMaker's is not named.
    """
    variable = f"BIRDSONG_IMAGE_{target.upper()}_SAGEMAKER"
    if whole := os.environ.get(variable, ""):
        return whole
    plain = reference(target)
    if "@" in plain:
        raise ConfigError(
            f"{plain} is named by its digest, and SageMaker's image is another one: name it too, "
            f"by {variable}."
        )
    return f"{plain}-sagemaker"


DATA = reference("data")
"""ingest, split, featurize: no TensorFlow."""

TRAIN = reference("train")
"""tune, train, evaluate_threshold."""

CLOUD = reference("cloud")
"""register, deploy."""

SERVE = reference("serve")
"""The inference server alone; no stage runs in it."""
