"""The executable `train` of SageMaker's training jobs: the stage train, told by files.

    /opt/ml/input/config/hyperparameters.json    settings of training by name, all as text
    /opt/ml/input/data/development/              the artifact of featurize
    /opt/ml/input/data/hyperparameters/          the artifact of tune; absent in trials
    /opt/ml/checkpoints/                         kept by SageMaker when a spot machine is taken away
    /opt/ml/model/                               the artifact model, curves and metrics
    /opt/ml/output/failure                       why it failed, at most 1,024 characters

The lines `metric NAME=VALUE` are for the job's metric definitions. SIGTERM ends it; the job that is
started again goes on with the epoch after the last checkpoint.
"""

import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from birdsong.errors import BirdsongError, ConfigError, DataError

CHANNEL, HYPERPARAMETERS = "development", "hyperparameters"
LONGEST_FAILURE = 1024

_THEIRS = ("_", "sagemaker_")
"""How names begin that SageMaker adds to the settings."""


def settings(values: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Hyperparameters, settings of a training and of its runtimes, from texts.

    Raises:
        ConfigError: A name is unknown, or a value does not fit.
    """
    from birdsong.config import Hyperparameters, RuntimeConfig, TrainConfig

    kinds = (Hyperparameters, TrainConfig, RuntimeConfig)
    known = {name for kind in kinds for name in kind.model_fields}
    ours = {name: value for name, value in values.items() if not name.startswith(_THEIRS)}
    unknown = sorted(set(ours) - known)
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no such setting. Known: {', '.join(sorted(known))}."
        )
    parts = [
        {name: value for name, value in ours.items() if name in kind.model_fields} for kind in kinds
    ]
    return Hyperparameters(**parts[0]), TrainConfig(**parts[1]), RuntimeConfig(**parts[2])


def train(root: Path) -> dict[str, float]:
    """Train as the files under `root` say.

    Raises:
        BirdsongError: A file is missing or not what it should be.
    """
    told = root / "input" / "config" / "hyperparameters.json"
    try:
        values = json.loads(told.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{told} cannot be read ({error}).") from error
    hyperparameters, config, runtimes = settings(values)
    data = root / "input" / "data" / CHANNEL
    if not data.is_dir():
        raise DataError(
            f"The job has no channel {CHANNEL}: {data} is absent. Give it what featurize made."
        )
    # TensorFlow takes its time; a wrong setting is told without it.
    from birdsong import artifacts, search, training
    from birdsong.checkpoints import FOLDER_VARIABLE
    from birdsong.config import TuneConfig

    checkpoints = root / "checkpoints"
    if "_tuning_objective_metric" in values:
        # Trials may share one prefix in the bucket; AWS does not say.
        checkpoints /= os.environ.get("TRAINING_JOB_NAME", "trial")
    os.environ[FOLDER_VARIABLE] = str(checkpoints)
    model = root / "model"
    chosen = root / "input" / "data" / HYPERPARAMETERS
    if not chosen.is_dir():
        chosen = model / "hyperparameters"
        passed = TuneConfig(trials=0)
        search.tune(data, chosen, model / "tune.html", passed, config, hyperparameters)
    metrics = training.train(
        data, chosen, model / "model", model / "history.html", config, runtimes
    )
    artifacts.write_json(model / "metrics.json", metrics)
    return metrics


def main(root: Path = Path("/opt/ml")) -> int:
    """Run one training job; 0 for a model, 1 for a failure that is told, 143 for SIGTERM."""
    # As the first process of a container it would otherwise not be ended by it at all.
    signal.signal(signal.SIGTERM, _stop)
    try:
        for name, value in train(root).items():
            print(f"metric {name}={value}", flush=True)
    except Exception as error:
        text = _reason(error)
        # Where the disk is full there is no room for the reason either; the log has it.
        with contextlib.suppress(OSError):
            failure = root / "output" / "failure"
            failure.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text(text[:LONGEST_FAILURE])
        if not isinstance(error, BirdsongError):
            traceback.print_exception(error)
        print(f"error: {text}", file=sys.stderr)
        return 1
    return 0


def _reason(error: Exception) -> str:
    """Why a job failed, for somebody who sees these words alone."""
    if isinstance(error, BirdsongError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = f" at {error.filename}" if error.filename else ""
        return f"The job's disk is full{place}. Give it a larger volume."
    return f"{type(error).__name__}: {error}"


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    # The argument is for trials without a container; SageMaker gives `train` alone.
    sys.exit(main(*map(Path, sys.argv[1:2])))
