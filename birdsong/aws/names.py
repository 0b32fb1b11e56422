"""Names of jobs: the same run and request give the same name, so that a retry finds its job.

    birdsong-<run>-train-<request>-a<attempt>    at most 63 characters
    birdsong-<run>-t-<request>-a<attempt>        at most 32, for tuning jobs

`run` and `request` are hashes; the run's id stands in a tag in full.
"""

import hashlib
import json
from typing import Any

PROJECT = "birdsong"
TAG_RUN, TAG_STEP, TAG_PROJECT = "birdsong:run", "birdsong:step", "birdsong:project"

LONGEST = {"train": 63, "tune": 32}
_SHORT = {"train": "train", "tune": "t"}


def digest(value: Any, digits: int) -> str:
    """The beginning of the SHA-256 of what JSON holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def of_run(run: str) -> str:
    """How the names of all jobs of a run begin."""
    return f"{PROJECT}-{digest(run, 8)}-"


def job_start(run: str, step: str) -> str:
    """How the names of all jobs of one step begin."""
    return f"{of_run(run)}{_SHORT[step]}-"


def job(run: str, step: str, request: Any, attempt: int) -> str:
    """Name of a job.

    Args:
        run: Id of the run.
        step: train or tune.
        request: All that the job is asked to do, without its name.
        attempt: From 1 to 9.
    """
    name = f"{job_start(run, step)}{digest(request, 8)}-a{attempt}"
    assert len(name) <= LONGEST[step]
    return name


def tags(run: str, step: str) -> list[dict[str, str]]:
    """Tags of a job, as AWS takes them."""
    values = {TAG_PROJECT: PROJECT, TAG_RUN: run, TAG_STEP: step}
    return [{"Key": key, "Value": value} for key, value in values.items()]
