"""tune as a tuning job: the best values, the page of trials, and trials that fail."""

from pathlib import Path
from typing import Any

import pytest
from made_jobs import CONFIG, With
from sagemaker_server.server import Server

from birdsong import artifacts, cost, hyperparameters
from birdsong.errors import JobError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_a_search_gives_the_best_values_and_the_page_though_one_trial_fails(
    search_step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_FAIL": "0.0001"}))
    space = '{"pos_weight": {"low": 1, "high": 9, "log": true}, "front_end": ["full", "small"]}'
    found = search_step(space=space)
    assert found["trials_failed"] >= 1
    assert found["trials_finished"] + found["trials_failed"] == 4
    [job] = server.store.tuning.values()
    assert len(job.name) <= 32
    config = job.request["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Bayesian"
    assert config["ResourceLimits"] == {
        "MaxNumberOfTrainingJobs": 4,
        "MaxParallelTrainingJobs": 2,
    }
    assert job.request["TrainingJobDefinition"]["EnableManagedSpotTraining"] is True
    rows = artifacts.read_json(tmp_path / "out" / "hyperparameters" / "trials.json")
    best = max((row for row in rows if row["accuracy"]), key=lambda row: row["accuracy"])
    chosen = artifacts.read_json(tmp_path / "out" / "hyperparameters" / "hyperparameters.json")
    assert {name: chosen[name] for name in best["values"]} == best["values"]
    assert isinstance(chosen["pos_weight"], float)
    assert chosen["front_end"] in ("full", "small")
    assert found["best_validation_accuracy"] == best["accuracy"]
    [spent] = cost.read(tmp_path / "out" / "hyperparameters")
    assert (spent.trials, spent.seconds) == (4, found["trained_seconds"])
    assert spent.billed is not None
    assert (spent.billed.job, spent.billed.jobs) == (job.name, 4)
    assert spent.usd == pytest.approx(found["usd"], abs=1e-4)
    told = [row["error"] for row in rows if row["state"] == "failed"]
    assert all("is above 0.0001" in text for text in told)
    page = (tmp_path / "out" / "trials.html").read_text()
    assert job.name in page
    assert "The first tried the given values" not in page
    output = capsys.readouterr().out
    assert "progress search 4/4 trials" in output
    hyperparameters.read(tmp_path / "out" / "hyperparameters", CONFIG)
    search_step(space=space)
    assert len(server.store.tuning) == 1
    assert len(server.names) == 4


def test_a_search_none_of_whose_trials_works_says_why_and_is_paid_for_with_the_next_one(
    search_step: Any, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = server.program
    monkeypatch.setattr(server, "program", With(made, {"MADE_FAIL": "1e-9"}))
    with pytest.raises(JobError, match=r"is above 1e-09") as caught:
        search_step(trials=2)
    assert "No objective metrics found" in str(caught.value)
    monkeypatch.setattr(server, "program", made)
    search_step(trials=2)
    assert [name[-2:] for _, name in server.store.tuning] == ["a1", "a2"]
    [spent] = cost.read(tmp_path / "out" / "hyperparameters")
    assert spent.billed is not None
    assert (spent.trials, spent.billed.jobs) == (4, 4)


@pytest.mark.slow
def test_a_search_learns_from_an_earlier_one_and_none_starts_no_job(
    search_step: Any, server: Server, tmp_path: Path
) -> None:
    search_step(trials=0)
    assert server.store.tuning == {}
    search_step(trials=1, strategy="Hyperband")
    [first] = server.store.tuning.values()
    config = first.request["HyperParameterTuningJobConfig"]
    assert config["TrainingJobEarlyStoppingType"] == "Off"
    assert config["StrategyConfig"]["HyperbandStrategyConfig"]["MaxResource"] == 2
    search_step(trials=1, warm_start=[first.name])
    second = list(server.store.tuning.values())[-1]
    parents = second.request["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": first.name}]
