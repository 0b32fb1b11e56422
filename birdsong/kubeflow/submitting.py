"""Starts runs on the backend, once: a submit that is repeated finds the run it made before.

A run is known by its name and by the hash of what was asked for (the compiled pipeline, the values,
the experiment), which its description carries. After a broken connection nobody knows whether the
backend has made the run; it is looked for before a second request is sent.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from birdsong.errors import ConfigError, UnreachableError
from birdsong.kubeflow.api import AnswerError, Api, UnsureError, pause
from birdsong.kubeflow.compiling import Compiled

T = TypeVar("T")

_HASH = re.compile(r"\brequest ([0-9a-f]{64})\b")
_LOOKS = (1.0, 3.0, 6.0)
"""Seconds between the looks for a run whose request may have arrived."""
_TRIES = 3
EXPERIMENT = "birdsong"


@dataclass(frozen=True)
class Request:
    """What is asked of the backend.

    Attributes:
        compiled: The pipeline.
        values: Value of each of its parameters.
        experiment: Name of the experiment.
        name: Of the run; empty for one that follows from the contents.
        note: Why the run exists, for its description.
        service_account: Of the pods; empty for KFP's own.
        pipeline_root: Where artifacts go; empty for the cluster's own.
    """

    compiled: Compiled
    values: Mapping[str, Any]
    experiment: str = EXPERIMENT
    name: str = ""
    note: str = "submit"
    service_account: str = ""
    pipeline_root: str = ""

    @property
    def sha256(self) -> str:
        """Hash of all that makes a run another one, its name apart."""
        parts = [
            self.compiled.sha256,
            dict(self.values),
            self.experiment,
            self.service_account,
            self.pipeline_root,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def run_name(self) -> str:
        """The name that was given, or one that the same request gets again."""
        return self.name or f"birdsong-{self.sha256[:10]}"

    @property
    def version_name(self) -> str:
        """Name of the pipeline version: the same contents have the same name."""
        return f"birdsong-{self.compiled.sha256[:12]}"

    @property
    def description(self) -> str:
        """What the UI shows under the name of the run."""
        return f"{self.note}; request {self.sha256}"


def named(request: Request, name: str) -> Request:
    """The same request under another name."""
    return dataclasses.replace(request, name=name)


@dataclass(frozen=True)
class Submitted:
    """A run on the backend.

    Attributes:
        run: `kfp_server_api.V2beta1Run`.
        existed: It was there before.
        removed: Ids of runs that a broken connection had made twice, and that were ended.
    """

    run: Any
    existed: bool = False
    removed: list[str] = field(default_factory=list)


def submit(
    api: Api,
    request: Request,
    tell: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = pause,
) -> Submitted:
    """Start a run, or find the one that the same request made.

    Args:
        api: The backend.
        request: What is asked for.
        tell: Hears what is done, a line each.
        sleep: Waits between looks.

    Raises:
        BirdsongError: The backend cannot be reached or refuses.
        ConfigError: Another request has made a run of this name.
    """
    api.check()
    experiment = _experiment(api, request.experiment, sleep)
    found = _same(api, experiment.experiment_id, request)
    if found:
        return Submitted(found[0], existed=True)
    pipeline_id, version = _version(api, request, tell, sleep)
    import kfp_server_api as server

    wanted = server.V2beta1Run(
        experiment_id=experiment.experiment_id,
        display_name=request.run_name,
        description=request.description,
        service_account=request.service_account or None,
        pipeline_version_reference=server.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version.pipeline_version_id
        ),
        runtime_config=server.V2beta1RuntimeConfig(
            parameters=dict(request.values), pipeline_root=request.pipeline_root or None
        ),
    )

    def look() -> list[Any]:
        return _same(api, experiment.experiment_id, request)

    tries = 0
    while True:
        tries += 1
        try:
            run = api.create_run(wanted)
        except (UnreachableError, AnswerError) as error:
            if isinstance(error, AnswerError) and error.status not in (502, 503, 504):
                raise
            tell(f"{error} Looking whether the run was made.")
            made = _wait_for(look, sleep)
            if made:
                return _keep_one(api, made[0], look(), tell)
            if tries == _TRIES:
                raise
        else:
            return Submitted(run) if tries == 1 else _keep_one(api, run, look(), tell)


def _keep_one(api: Api, run: Any, made: list[Any], tell: Callable[[str], None]) -> Submitted:
    """End all but the oldest of the runs that one request has made."""
    if len(made) < 2:
        return Submitted(run)
    oldest, *others = sorted(made, key=lambda one: (str(one.created_at), one.run_id))
    removed = []
    for other in others:
        tell(f"The broken connection has made the run twice; ending {other.run_id}.")
        api.terminate(other.run_id)
        removed.append(str(other.run_id))
    return Submitted(oldest, removed=removed)


def _same(api: Api, experiment_id: str, request: Request) -> list[Any]:
    """Runs of this name and request, the oldest first.

    Raises:
        ConfigError: A run of this name was made by another request.
    """
    named = [
        run
        for run in api.runs(experiment_id=experiment_id, name=request.run_name)
        if run.display_name == request.run_name
    ]
    same = [run for run in named if request_of(run) == request.sha256]
    if named and not same:
        raise ConfigError(
            f"There is a run named {request.run_name} in the experiment {request.experiment} "
            f"that was asked for otherwise ({named[0].run_id}). Choose another --name."
        )
    return sorted(same, key=lambda run: str(run.created_at))


def request_of(run: Any) -> str | None:
    """The hash of the request that made a run; None where birdsong did not make it."""
    found = _HASH.search(run.description or "")
    return found[1] if found else None


def _experiment(api: Api, name: str, sleep: Callable[[float], None]) -> Any:
    return _once(lambda: api.experiment(name), lambda: api.create_experiment(name), sleep)


def _version(
    api: Api, request: Request, tell: Callable[[str], None], sleep: Callable[[float], None]
) -> tuple[str, Any]:
    """The pipeline and its version with the contents of the request; made where absent."""
    info = request.compiled.pipeline["pipelineInfo"]
    name = str(info["name"])

    def make_pipeline() -> str:
        return str(api.create_pipeline(name, str(info.get("description", ""))).pipeline_id)

    pipeline_id = _once(lambda: api.pipeline_id(name), make_pipeline, sleep)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{request.version_name}.yaml"
        file.write_text(request.compiled.as_yaml(), encoding="utf-8")

        def upload() -> Any:
            tell(f"uploading the pipeline version {request.version_name}")
            return api.upload_version(pipeline_id, request.version_name, file, request.note)

        version = _once(lambda: api.version(pipeline_id, request.version_name), upload, sleep)
    return pipeline_id, version


def _once(find: Callable[[], T | None], make: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Make something that has a unique name, unless it is there; also after a broken connection."""
    found = find()
    if found is not None:
        return found
    for attempt in range(1, _TRIES + 1):
        try:
            return make()
        except (UnsureError, AnswerError) as error:
            # 409: somebody else has made it in the meantime, or we have, by a request whose
            # answer was lost.
            if isinstance(error, AnswerError) and error.status not in (409, 502, 503, 504):
                raise
            sleep(1)
            found = find()
            if found is not None:
                return found
            if attempt == _TRIES:
                raise
    raise AssertionError("unreachable")


def _wait_for(look: Callable[[], list[Any]], sleep: Callable[[float], None]) -> list[Any]:
    for seconds in _LOOKS:
        sleep(seconds)
        found = look()
        if found:
            return found
    return []
