"""Names of the container images that the stages run in; the only reader of registry and tag."""

import os

_REGISTRY = os.environ.get("BIRDSONG_REGISTRY", "").rstrip("/")
_TAG = os.environ.get("BIRDSONG_IMAGE_TAG", "local")


def _image(target: str) -> str:
    # The name contains "python", or kfp's local runner warns at every stage.
    name = f"birdsong-python-{target}:{_TAG}"
    return f"{_REGISTRY}/{name}" if _REGISTRY else name


DATA = _image("data")
"""ingest, split, featurize: no TensorFlow."""

TRAIN = _image("train")
"""tune, train, evaluate_threshold."""

CLOUD = _image("cloud")
"""register, deploy."""
