"""The trials of a search, shared by real processes and cut off by real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna

from birdsong import search_space
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.trials import GIVE_UP_AFTER, KILLED, Trials

WORKER = """
import os, sys, time
from pathlib import Path
from test_trials import open_trials

place, total, seconds, fatal = Path(sys.argv[1]), *map(float, sys.argv[2:])
trials = open_trials(place, int(total))
while (trial := trials.claim()) is not None:
    line = f"{trial.number} {trial.params['dropout']:.6f} {os.getpid()}"
    with (place / "started").open("a") as log:
        log.write(line + chr(10))
    if trial.params["dropout"] > fatal:
        os.kill(os.getpid(), 9)
    time.sleep(seconds)
    with (place / "ended").open("a") as log:
        log.write(line + chr(10))
    trials.finish(trial, trial.params["dropout"])
"""


def open_trials(place: Path, total: int, seed: int = 0) -> Trials:
    space = search_space.parse("")
    start = space.start(Hyperparameters(dropout=0.1), TrainConfig())
    return Trials(place / "kept" / "search", space.distributions(), start, total, seed)


def worker(
    place: Path, total: int, seconds: float = 0.05, fatal: float = 1.0
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(place), str(total), str(seconds), str(fatal)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def run_here(trials: Trials, most: int = 1000) -> list[float]:
    seen = []
    while len(seen) < most and (trial := trials.claim()) is not None:
        seen.append(trial.params["dropout"])
        trials.finish(trial, seen[-1])
    return seen


def test_two_processes_do_every_trial_once_and_as_many_as_asked_for(tmp_path: Path) -> None:
    total = 24
    both = [worker(tmp_path, total, seconds=0.01) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    ended = lines(tmp_path / "ended")
    assert len(ended) == total
    assert len({number for number, _, _ in ended}) == total
    assert len({dropout for _, dropout, _ in ended}) == total
    assert len({pid for _, _, pid in ended}) == 2
    assert lines(tmp_path / "started")[0][1] == "0.100000"
    assert [row["state"] for row in open_trials(tmp_path, total).rows()] == ["complete"] * total


def test_a_trial_that_was_running_at_a_kill_is_done_again_once_and_no_other(
    tmp_path: Path,
) -> None:
    first = worker(tmp_path, total=6, seconds=0.4)
    while len(lines(tmp_path / "started")) < 3:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = lines(tmp_path / "ended")
    assert len(before) == 2
    assert worker(tmp_path, total=6, seconds=0).wait(120) == 0
    started = Counter(dropout for _, dropout, _ in lines(tmp_path / "started"))
    ended = Counter(dropout for _, dropout, _ in lines(tmp_path / "ended"))
    assert sorted(started.values()) == [1, 1, 1, 1, 1, 2]
    assert sorted(ended.values()) == [1] * 6
    rows = open_trials(tmp_path, 6).rows()
    assert Counter(row["state"] for row in rows) == {"complete": 6, "killed": 1}
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    run_here(open_trials(undisturbed, 6))
    drawn = [row["values"]["dropout"] for row in open_trials(undisturbed, 6).rows()]
    assert [row["values"]["dropout"] for row in rows if row["state"] == "complete"] == drawn


def test_a_living_process_goes_on_with_what_a_killed_one_left(tmp_path: Path) -> None:
    lasting = worker(tmp_path, total=5, seconds=0.3)
    dying = worker(tmp_path, total=5, seconds=60)
    while str(dying.pid) not in {pid for _, _, pid in lines(tmp_path / "started")}:
        time.sleep(0.01)
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert lasting.wait(120) == 0
    assert Counter(row["state"] for row in open_trials(tmp_path, 5).rows()) == {
        "complete": 5,
        "killed": 1,
    }


def test_values_that_kill_their_process_twice_are_a_failed_trial_and_the_search_goes_on(
    tmp_path: Path,
) -> None:
    ends = [worker(tmp_path, total=1, seconds=0, fatal=0.05).wait(120) for _ in range(3)]
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    killed, failed = open_trials(tmp_path, 1).rows()
    assert (killed["state"], failed["state"], failed["error"]) == ("killed", "failed", KILLED)
    assert run_here(open_trials(tmp_path, 3)) != []
    states = Counter(row["state"] for row in open_trials(tmp_path, 3).rows())
    assert states == {"killed": 1, "failed": 1, "complete": 2}


def test_the_same_seed_draws_the_same_first_trials_and_another_seed_others(
    tmp_path: Path,
) -> None:
    drawn = []
    for number, seed in enumerate((3, 3, 4)):
        place = tmp_path / str(number)
        place.mkdir()
        drawn.append(run_here(open_trials(place, 6, seed)))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[2][0] == 0.1
    assert not set(drawn[0][1:]) & set(drawn[2][1:])


def test_more_trials_go_on_where_fewer_ended_and_fewer_do_nothing(tmp_path: Path) -> None:
    first = run_here(open_trials(tmp_path, 3))
    assert run_here(open_trials(tmp_path, 2)) == []
    second = run_here(open_trials(tmp_path, 5))
    assert len(first) == 3
    assert len(second) == 2
    assert not set(first) & set(second)


def test_where_the_first_trials_all_fail_the_rest_is_not_tried(tmp_path: Path) -> None:
    trials, reasons = open_trials(tmp_path, 50), 0
    while (trial := trials.claim()) is not None:
        trials.finish(trial, "not enough memory.")
        reasons += 1
    assert reasons == GIVE_UP_AFTER
    assert {row["error"] for row in trials.rows()} == {"not enough memory."}
    json.dumps(trials.rows(), allow_nan=False)


def test_how_a_trial_ended_is_told(tmp_path: Path) -> None:
    trials = open_trials(tmp_path, 3)
    for outcome in (0.5, optuna.TrialPruned(), "the loss is nan."):
        trial = trials.claim()
        assert trial is not None
        if not isinstance(outcome, str):
            trial.report(0.25, 1)
        trials.finish(trial, outcome)
    assert trials.claim() is None
    told = [(row["state"], row["accuracy"], row["by_epoch"], row["error"]) for row in trials.rows()]
    assert told[0] == ("complete", 0.5, [0.25], "")
    assert told[1] == ("pruned", 0.25, [0.25], "")
    assert told[2] == ("failed", None, [], "the loss is nan.")
    trials.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_another_process_still_uses_is_not_removed(tmp_path: Path) -> None:
    one, other = open_trials(tmp_path, 2), open_trials(tmp_path, 2)
    run_here(one)
    one.remove()
    assert len(other.rows()) == 2
    assert other.claim() is None
    other.remove()
    assert not (tmp_path / "kept").exists()
