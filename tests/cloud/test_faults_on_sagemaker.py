"""One failure at each call to AWS of train and tune: the right end, nothing doubled, no orphan."""

import itertools
from collections.abc import Callable
from pathlib import Path

import made_jobs
import pytest
from sagemaker_server.faults import KINDS
from sagemaker_server.server import BUCKET, Server

from birdsong import artifacts
from birdsong.aws.settings import JOBS_OF

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TRAIN = (
    *("GetBucket", "GetBucketLocation", "ListObjectsV2", "PutObject"),
    *("CreateTrainingJob", "DescribeTrainingJob", "DescribeLogStreams", "GetLogEvents"),
    *("HeadObject", "GetObject", "ListTrainingJobs"),
)
TUNE = (
    *("CreateHyperParameterTuningJob", "DescribeHyperParameterTuningJob"),
    *("ListTrainingJobsForHyperParameterTuningJob", "DescribeTrainingJob", "PutObject"),
    "ListHyperParameterTuningJobs",
)
STEPS = {"train": TRAIN, "tune": TUNE}


class Step:
    """Runs a step as that of a new run, with a prefix of its own in the bucket."""

    def __init__(
        self,
        server: Server,
        set_up: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        inputs: dict[str, Path],
        folder: Path,
    ) -> None:
        self._server, self._set_up, self._monkeypatch = server, set_up, monkeypatch
        self._inputs, self._folder = inputs, folder

    def run(self, step: str, case: str) -> tuple[str, list[str]]:
        """How it ended, in a word, and the calls that came."""
        server, out = self._server, self._folder / case
        self._set_up(place=f"s3://{BUCKET}/{case}")
        self._monkeypatch.setenv(JOBS_OF, case)
        jobs, searches = len(server.names), len(server.store.tuning)
        calls = len(server.faults.calls)
        expected = (1, 0) if step == "train" else (2, 1)
        try:
            if step == "train":
                made_jobs.train(self._inputs, out)
                artifacts.verify(out / "model")
            else:
                made_jobs.tune(self._inputs, out, trials=2)
                artifacts.verify(out / "hyperparameters")
        except Exception as error:
            return f"{type(error).__name__}: {error}", server.faults.calls[calls:]
        made = (len(server.names) - jobs, len(server.store.tuning) - searches)
        if made != expected:
            return f"{made} jobs and searches instead of {expected}", []
        if server.at_work:
            return f"left at work: {server.at_work}", []
        return "right", server.faults.calls[calls:]


@pytest.fixture
def run_step(
    server: Server,
    in_step: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    job_inputs: dict[str, Path],
    tmp_path: Path,
) -> Step:
    return Step(server, in_step, monkeypatch, job_inputs, tmp_path)


@pytest.mark.slow
def test_the_table_knows_every_call(run_step: Step) -> None:
    found: set[str] = set()
    for step, actions in STEPS.items():
        end, calls = run_step.run(step, f"calls-{step}")
        assert end == "right"
        assert set(actions) <= set(calls) | {"GetBucket", "GetBucketLocation"}
        found |= set(calls)
    assert found <= {*TRAIN, *TUNE}


@pytest.mark.parametrize("kind", ["timeout", "reset"])
def test_a_failure_at_the_start_of_a_job_doubles_none(
    run_step: Step, server: Server, kind: str
) -> None:
    server.faults.add("CreateTrainingJob", kind)
    end, _ = run_step.run("train", f"create-{kind}")
    assert end == "right"
    assert server.faults.met == [("CreateTrainingJob", kind)]


@pytest.mark.slow
def test_a_failure_at_any_call_leaves_the_right_end(run_step: Step, server: Server) -> None:
    rows: dict[tuple[str, str], list[str]] = {}
    numbers = itertools.count()
    for step, actions in STEPS.items():
        _, calls = run_step.run(step, f"undisturbed-{step}")
        for action in (one for one in actions if one in calls):
            for kind in KINDS:
                # The first call of the action, and one from the middle.
                ends = []
                for after in sorted({0, calls.count(action) // 2}):
                    server.faults.clear()
                    met = len(server.faults.met)
                    server.faults.add(action, kind, after=after)
                    end, _ = run_step.run(step, f"case-{next(numbers)}")
                    ends.append(end if len(server.faults.met) > met else "not met")
                rows.setdefault((step, action), []).append(_cell(ends))
    server.faults.clear()
    print(f"| call | {' | '.join(KINDS)} |")
    print("|---|" + "---|" * len(KINDS))
    for (step, action), cells in rows.items():
        print(f"| {step}: {action} | {' | '.join(cells)} |")
    wrong = {key: cells for key, cells in rows.items() if any("right" not in one for one in cells)}
    assert not wrong, wrong
    assert server.at_work == []


def _cell(ends: list[str]) -> str:
    met = [end for end in ends if end != "not met"]
    bad = [end for end in met if end != "right"]
    return bad[0] if bad else f"{len(met)} of {len(met)} right"
