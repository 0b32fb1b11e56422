"""Bundles fetched from a registry elsewhere, kept by their hash in the user's cache."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def folder(sha256: str, fetch: Callable[[Path], Path]) -> Path:
    """The folder of a bundle; fetched whole or not at all where it is not here yet.

    Args:
        sha256: Hash of the bundle.
        fetch: Fetches it into (a folder below) the empty folder that it is given, and says where.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "birdsong" / "bundles" / sha256
    if kept.is_dir():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}.writing")
    aside.mkdir()
    try:
        came = fetch(aside)
        # Another process may have been faster; its copy is as good.
        with contextlib.suppress(OSError):
            came.rename(kept)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return kept
