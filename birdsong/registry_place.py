"""Where an MLflow registry is, and the way into it: one process at a time, errors in words."""

import contextlib
import fcntl
import glob
import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from birdsong.errors import BirdsongError, ConfigError, StorageError

_LOCK_SECONDS, _BUSY_SECONDS = 120.0, 10.0
_SWITCHES = {
    # No usage reports, no hints for coding agents: a run needs no network and says what it did.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The defaults wait for minutes on a server that is not there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Place:
    """Where a registry is.

    Attributes:
        uri: As MLflow takes it, with an absolute path for a file.
        file: The SQLite file; None for a server.
    """

    uri: str
    file: Path | None

    @classmethod
    def parse(cls, registry: str) -> "Place":
        """Read a registry's address.

        Raises:
            ConfigError: It is empty or of a kind that is not supported.
        """
        registry = registry.strip()
        if not registry:
            raise ConfigError(
                "registry is empty: register needs MLflow's address. On one machine "
                "`python pipeline.py run` fills in a file in the runs folder; for a cluster give "
                "the address of an MLflow server, for example "
                "--set registry=http://mlflow.kubeflow:5000."
            )
        parts = urlsplit(registry)
        if parts.scheme in ("http", "https") and parts.hostname:
            return cls(registry.rstrip("/"), None)
        if registry.startswith("sqlite:///") and len(registry) > len("sqlite:///"):
            file = Path(registry.removeprefix("sqlite:///")).expanduser().absolute()
            return cls(f"sqlite:///{file}", file)
        raise ConfigError(
            f"registry {registry!r} is not understood: give sqlite:///FILE, for example "
            "sqlite:///runs/registry/mlflow.db, http(s)://HOST of an MLflow server, or "
            "sagemaker://BUCKET/PREFIX."
        )

    @property
    def exists(self) -> bool:
        """False for a SQLite file that is not there yet."""
        return self.file is None or self.file.exists()

    @property
    def store(self) -> Path | None:
        """The folder of bundles beside a SQLite file."""
        return None if self.file is None else self.file.with_name(f"{self.file.stem}-artifacts")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time work with a registry that is a file, and check the file.

        Two first uses at once would both make its tables, and two registrations of one bundle
        two versions.
        """
        if self.file is None:
            yield
            return
        lock = self.file.with_name(f".{self.file.name}.lock")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = lock.open("a")
        except OSError as error:
            raise StorageError(
                f"The registry's folder {self.file.parent} cannot be written: {error.strerror}. "
                "Give another place by registry=sqlite:///FILE or make it writable."
            ) from error
        with handle:
            _wait_for(handle.fileno(), self.file)
            _check_database(self.file)
            yield


def _wait_for(descriptor: int, file: Path) -> None:
    give_up = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > give_up:
                raise StorageError(
                    f"Another process has worked with the registry {file} for "
                    f"{_LOCK_SECONDS:g} s. Wait until it is done, or end it."
                ) from None
            time.sleep(0.1)


def _check_database(file: Path) -> None:
    """Tell what is wrong with a SQLite file at once; MLflow would retry for a minute."""
    if not file.exists() or file.stat().st_size == 0:
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text:
            advice = "Another program holds it. Close that program (an MLflow server?) and retry."
        elif "readonly" in text or "unable to open" in text:
            advice = "Make the file and its folder writable, or give another registry."
        else:
            advice = "It is not an MLflow database. Give another registry=sqlite:///FILE."
        raise StorageError(f"The registry {file} cannot be used: {text}. {advice}") from error


@contextlib.contextmanager
def told(place: Place) -> Iterator[None]:
    """Turn MLflow's and SQLAlchemy's errors into ours."""
    try:
        yield
    except BirdsongError:
        raise
    except OSError as error:
        raise StorageError(f"The registry {place.uri} cannot be used: {error}.") from error
    except Exception as error:
        # By name: importing MLflow's and SQLAlchemy's classes here would cost every reader 5 s.
        kind = type(error)
        if not kind.__module__.startswith(("mlflow", "sqlalchemy", "alembic", "requests")):
            raise
        raise StorageError(_advice(place, str(error))) from error


def _advice(place: Place, text: str) -> str:
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    if "database schema" in text or "Can't locate revision" in text:
        import mlflow

        return (
            f"The registry {place.uri} was written by another version of MLflow than this one "
            f"({mlflow.__version__}): {first} Use the MLflow that wrote it, or (for an older "
            f"database, after a copy) `mlflow db upgrade {place.uri}`, or give another registry."
        )
    half_made = re.search(r"table \w+ already exists|no such (column|table)", text)
    if place.file is not None and half_made:
        return (
            f"The registry {place.file} was left half-made ({first}). Move that file away; its "
            "bundles stay in the folder beside it, and the next register makes a new one."
        )
    if place.file is None:
        return (
            f"The MLflow server {place.uri} did not do what was asked: {first} Check that it "
            "runs, that its address is right, and that it may be reached from here."
        )
    return f"The registry {place.uri} cannot be used: {first}"


def client(place: Place) -> Any:
    """An MLflow client without noise; starts MLflow's database where there is none."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # MLflow's own use of pydantic and SQLAlchemy; nothing that our user can mend.
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # Lines about tables that are made, and a warning with every request from sagemaker's
        # plugin, which takes any server for an Amazon one. Failures are exceptions.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if place.file is not None and not (place.file.exists() and place.file.stat().st_size):
            _make_database(place.file)
        return MlflowClient(place.uri, registry_uri=place.uri)


def _make_database(file: Path) -> None:
    """Let MLflow make its tables aside, then rename: half of them would refuse every later use.

    It takes seconds, in which the step may be cancelled or killed.
    """
    from mlflow.tracking import MlflowClient

    aside = file.with_name(f".{file.name}.writing")
    for left in file.parent.glob(f"{glob.escape(aside.name)}*"):  # of one that was killed
        left.unlink()
    uri = f"sqlite:///{aside}"
    client = MlflowClient(uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)
    aside.replace(file)
