"""The state of a training after each epoch, so that a killed one goes on as if it had not been.

A folder of one training holds two files with fixed names, written in turn: when one is damaged,
the other is one epoch older. Each is a NumPy archive (.npz), whose members carry checksums.
"""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from birdsong import artifacts

FOLDER_VARIABLE = "BIRDSONG_CHECKPOINTS"
"""Environment variable that names a folder for checkpoints, kept from one attempt to the next."""

FILES = ("checkpoint-0.npz", "checkpoint-1.npz")

LAYOUT = 1
"""Version of the files; raised when what they hold changes its meaning."""

Arrays = list[NDArray[Any]]


def folder_beside(output: str | Path) -> Path:
    """Where checkpoints of a stage go: what the environment names, else hidden beside its output.

    Args:
        output: Artifact that the stage writes.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    place = Path(output)
    return Path(named) if named else place.parent / f".{place.name}.checkpoints"


def key(features: str | Path, settings: Sequence[BaseModel], variables: Sequence[Any]) -> str:
    """Name a training by all that decides its weights: data, settings and library versions.

    Args:
        features: The development artifact.
        settings: Of the training and its hyperparameters.
        variables: Of the network and the optimizer; their shapes count.

    Returns:
        16 hexadecimal digits.

    Raises:
        DataError: The artifact is not complete.
    """
    from birdsong.tensorflow_setup import keras, tf

    parts = [
        LAYOUT,
        artifacts.read_spec(features, "features").sha256,
        [one.model_dump(mode="json") for one in settings],
        [list(variable.shape) for variable in variables],
        [keras.__version__, tf.__version__],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Checkpoints:
    """The two checkpoints of one training.

    Args:
        folder: Where they are; no other training may use it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, state: dict[str, Any], groups: Sequence[Arrays]) -> None:
        """Keep the state after an epoch in place of the older checkpoint, whole or not at all.

        A checkpoint that cannot be written (a full disk) is told and does not end the training.

        Args:
            number: The epoch, from 1.
            state: What JSON can hold, without NaN.
            groups: Lists of arrays, of any types but objects.
        """
        members = {
            f"{group}-{place}": array
            for group, arrays in enumerate(groups)
            for place, array in enumerate(arrays)
        }
        text = json.dumps({**state, "epoch": number}, allow_nan=False)
        members["state"] = np.frombuffer(text.encode(), np.uint8)
        try:
            with (
                artifacts.write_aside(self.folder / FILES[number % 2]) as temporary,
                temporary.open("wb") as file,
            ):
                np.savez(file, **members)  # type: ignore[arg-type]
                file.flush()
                # Renamed only when the bytes are on the disk: a machine may go, not just a process.
                os.fsync(file.fileno())
        except OSError as error:
            print(f"train: the checkpoint of epoch {number} is not written ({error}).", flush=True)

    def load(self, groups: int) -> tuple[dict[str, Any], list[Arrays]] | None:
        """Read the newest whole checkpoint.

        Args:
            groups: Lists of arrays that `save` was given.

        Returns:
            The state, with its `epoch`, and the lists of arrays; None where there is none.
        """
        found = []
        for name in FILES:
            file = self.folder / name
            if not file.exists():
                continue
            try:
                found.append(_read(file, groups))
            except (
                OSError,
                ValueError,
                KeyError,
                EOFError,
                zipfile.BadZipFile,
                zlib.error,
            ) as error:
                print(
                    f"train: the checkpoint {file} is damaged ({error}) and is left out.",
                    flush=True,
                )
        return max(found, key=lambda one: int(one[0]["epoch"]), default=None)

    def remove(self) -> None:
        """Remove them, and the folder around when nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:
            # Another training has its checkpoints there, or there never was such a folder.
            return


def _read(file: Path, groups: int) -> tuple[dict[str, Any], list[Arrays]]:
    with np.load(file) as members:
        state: dict[str, Any] = json.loads(members["state"].tobytes())
        lists: list[Arrays] = [[] for _ in range(groups)]
        # In the order of writing.
        for name in members.files:
            if name != "state":
                lists[int(name.split("-")[0])].append(members[name])
    return state, lists
