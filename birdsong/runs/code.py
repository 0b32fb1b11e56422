"""Which code a run was made with: a fingerprint of the files and the versions that matter."""

import hashlib
import platform
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages birdsong and components, and pipeline.py."""

PARTS = ("birdsong", "components", "pipeline.py", "docker/requirements")
PACKAGES = (
    *("birdsong", "kfp", "protobuf", "numpy", "pandas", "pyarrow", "pydantic"),
    *("soundfile", "soxr", "scikit-learn", "tensorflow", "keras", "tensorflow-io"),
    *("optuna", "mlflow", "boto3", "google-cloud-storage", "sagemaker"),
)


def fingerprint(root: Path = ROOT) -> str:
    """SHA-256 over the names and bytes of all code and pinned requirements."""
    total = hashlib.sha256()
    for part in PARTS:
        place = root / part
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and file.name[0] != ".":
                total.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
                total.update(file.read_bytes())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
