"""The record of a run: what was asked, what each step did, and where its outputs are.

One JSON file per run, `RUNS/<id>/run.json`, replaced as a whole at each change, so that it can be
read at every instant, also after a power cut. A record says RUNNING as long as its engine lives;
the engine's process is named by id and start time, so that a run whose engine died is told apart
from one that works.

    RUNS/<id>/run.json            the record
    RUNS/<id>/pipeline.json       the compiled pipeline (KFP's intermediate representation)
    RUNS/<id>/logs/<step>.log     what a step printed
    RUNS/<id>/artifacts/<step>/   what a step made
    RUNS/<id>/pages/              the HTML among it, under names that browsers open
"""

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from birdsong.errors import ConfigError, DataError
from birdsong.runs import headline, moved, processes

RECORD = "run.json"
PIPELINE = "pipeline.json"
SCHEMA_VERSION = 1

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
"""What the id of a run looks like; it is the name of its folder."""


class State(StrEnum):
    """What became of a run or of a step."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    """Never started: a step before it failed, or its condition was false."""
    REUSED = "REUSED"
    """Not executed: the recorded outputs of an earlier run were taken."""
    CANCELLED = "CANCELLED"
    DIED = "DIED"
    """The engine is gone without a word, as after kill -9. Never written, only seen by readers."""


FINISHED = frozenset(State) - {State.PENDING, State.RUNNING}
USABLE = frozenset({State.SUCCEEDED, State.REUSED})
"""States of steps whose outputs are whole."""


@dataclass
class Step:
    """One step of a run.

    Attributes:
        name: As KFP shows it, with hyphens; the folder and the log are named by it.
        task: Name of the task in the pipeline.
        component: Name of the component in the compiled pipeline.
        upstream: Steps whose outputs or order it waits for.
        inputs: Name of each input to {"type", "value"} or {"type", "uri", "path", "metadata"}.
        outputs: The same for what it made; artifacts also carry "sha256".
        metrics: Numbers that the step logged.
        container: Id of its container, if it ran in one.
        peak_memory: Most bytes that were not file cache, over the step's processes together.
        attempts: How often it was started.
        tries: The attempts that failed and were followed by another: {"ended", "exit_code",
            "error", "delay_seconds"}.
        key: What its outputs depend on, as a hash; None where it must not be reused by key.
        code: Fingerprint of the code it ran.
        reused_from: The run that executed it, where it was not executed here.
    """

    name: str
    task: str = ""
    component: str = ""
    state: State = State.PENDING
    upstream: list[str] = field(default_factory=list)
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    log: str | None = None
    pid: int | None = None
    container: str | None = None
    exit_code: int | None = None
    peak_memory: int | None = None
    attempts: int = 0
    error: str | None = None
    tries: list[dict[str, Any]] = field(default_factory=list)
    key: str | None = None
    code: str = ""
    reused_from: str | None = None


@dataclass
class Run:
    """One run; see `Step` for its steps, in the order of the pipeline.

    `mark` is in the environment of every process that it started. `jobs_of` is the first run of a
    chain of resumes, by which jobs elsewhere are named; empty for the run itself.
    """

    id: str
    pipeline: str
    folder: Path
    arguments: dict[str, Any]
    state: State = State.RUNNING
    started: str = ""
    ended: str | None = None
    seconds: float | None = None
    error: str | None = None
    parent: str | None = None
    note: str = ""
    command: list[str] = field(default_factory=list)
    host: str = ""
    pid: int | None = None
    process_started: str | None = None
    fingerprint: str = ""
    mark: str = ""
    runner: str = "subprocess"
    jobs_of: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record as plain values: what a list shows first, steps as a list in order."""
        document = {headline.KEY: headline.of(self)} | asdict(self)
        document |= {"schema_version": SCHEMA_VERSION, "folder": str(self.folder)}
        return document | {"steps": list(document["steps"].values())}


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def seconds_between(started: str | None, ended: str | None) -> float | None:
    """Seconds from one time of a record to another, never negative; None where one is missing."""
    if not started or not ended:
        return None
    passed = datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(started)
    return round(max(passed.total_seconds(), 0.0), 3)


def read(folder: str | Path) -> Run:
    """Read the record of one run; a run whose engine is gone is given as DIED.

    Raises:
        DataError: There is no record, or it is not one of this version.
    """
    place = Path(folder)
    try:
        document = json.loads((place / RECORD).read_text())
        moved.follow(document, place.absolute())
        if document.pop("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{place / RECORD} was written by another version of birdsong. "
                "Read it with that version, or run again."
            )
        steps = [
            Step(**(_known(Step, entry) | {"state": State(entry["state"])}))
            for entry in document.pop("steps")
        ]
        values = _known(Run, document) | {
            "folder": place.absolute(),
            "state": State(document["state"]),
            "steps": {step.name: step for step in steps},
        }
        run = Run(**values)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{place} is not a run: it has no {RECORD}.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place / RECORD} cannot be read ({error}).") from error
    if run.state == State.RUNNING and not _engine_lives(run, document.get("folder")):
        bury(run)
    return run


def is_elsewhere(run: Run) -> bool:
    """Whether a run says that it is at work on another machine, of which nothing is known here."""
    return run.state == State.RUNNING and run.host != processes.current().host


def bury(run: Run) -> None:
    """Take a run that says RUNNING for one whose engine is gone."""
    run.state = State.DIED
    run.error = "The process of the run ended without a word (killed, or the machine stopped)."
    for step in run.steps.values():
        if step.state == State.RUNNING:
            step.state, step.error = State.DIED, "It was running when the run died."
        elif step.state == State.PENDING:
            step.state = State.SKIPPED


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _engine_lives(run: Run, folder: str | None) -> bool:
    if run.pid is None or run.host != processes.current().host:
        return True  # another machine's run: nothing here can tell
    if folder and Path(folder).is_dir() and not run.folder.samefile(folder):
        return False  # a copy: the engine, if it lives, writes to the original
    return processes.lives(run.pid, run.process_started)


def list_runs(runs: str | Path) -> list[Run]:
    """The runs of a folder, newest first; unreadable records are left out."""
    found = []
    for place in sorted(Path(runs).glob(f"*/{RECORD}"), reverse=True):
        try:
            found.append(read(place.parent))
        except DataError:
            continue
    return found


def find(runs: str | Path, name: str) -> Run:
    """The run that `name` means: its id, the start of its id, or `latest`.

    Raises:
        ConfigError: None or several runs fit.
    """
    names = sorted((place.parent.name for place in Path(runs).glob(f"*/{RECORD}")), reverse=True)
    if not names:
        raise ConfigError(f"There are no runs in {runs}. Start one, or name another --runs folder.")
    fitting = names[:1] if name == "latest" else [run for run in names if run.startswith(name)]
    if name in names:
        fitting = [name]
    if len(fitting) == 1:
        return read(Path(runs) / fitting[0])
    if fitting:
        raise ConfigError(f"{name!r} fits {len(fitting)} runs: {', '.join(fitting[:8])}.")
    raise ConfigError(f"No run {name!r} in {runs}. Known, newest first: {', '.join(names[:8])}.")
