"""The search: trials, pruning, what it starts from, and going on after a kill."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from made_features import Take, song, write_features

from birdsong import artifacts, cost, hyperparameters, search, search_page, search_space, training
from birdsong.checkpoints import FOLDER_VARIABLE
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import ConfigError, DataError, StorageError
from birdsong.tensorflow_setup import keras, tf

SETTINGS = TrainConfig(backbone="tiny", weights="none", front_end="small", batch_size=4)
START = Hyperparameters(learning_rate=2e-3, dropout=0.2)


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Path:
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="validation" if n == 3 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(4)
    ]
    path = tmp_path_factory.mktemp("features") / "development"
    write_features(path, ["low", "high"], takes)
    return path


class Pretence:
    """Stands for training: a trial's accuracy is its dropout, so that 0.7 is the best."""

    def __init__(
        self, dies_at: int | None = None, fails: Mapping[int, Exception] | None = None
    ) -> None:
        self.seen: list[Hyperparameters] = []
        self.configs: list[TrainConfig] = []
        self.epochs = 0
        self.dies_at = dies_at
        self.fails = fails or {}

    def __call__(
        self,
        features: Any,
        hyperparameters: Hyperparameters,
        config: TrainConfig,
        label: str,
        after_epoch: Any,
    ) -> None:
        self.seen.append(hyperparameters)
        self.configs.append(config)
        if len(self.seen) in self.fails:
            raise self.fails[len(self.seen)]
        if len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        for number in range(1, config.epochs + 1):
            self.epochs += 1
            after_epoch(training.Epoch(number, 1.0, 1.0, hyperparameters.dropout, 1e-3, 0.0))


def pretend(monkeypatch: pytest.MonkeyPatch, pretence: Pretence) -> None:
    """Train by pretence; between such trials there is nothing of TensorFlow's to clear."""
    monkeypatch.setattr(training, "fit", pretence)
    monkeypatch.setattr(keras.backend, "clear_session", lambda: None)


def run(
    development: Path, out: Path, trials: int, epochs: int = 4, space: str = "", workers: int = 1
) -> dict[str, float]:
    return search.tune(
        development,
        out / "hyperparameters",
        out / "trials.html",
        TuneConfig(trials=trials, epochs=epochs, space=space, workers=workers),
        SETTINGS,
        START,
    )


def written(out: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        (out / "hyperparameters" / "hyperparameters.json").read_text()
    )
    return found


def test_no_trials_pass_the_values_on(development: Path, tmp_path: Path) -> None:
    assert run(development, tmp_path, trials=0) == {
        "trials_finished": 0,
        "trials_pruned": 0,
        "trials_failed": 0,
    }
    assert written(tmp_path) == START.model_dump()
    assert hyperparameters.read(tmp_path / "hyperparameters", SETTINGS) == (START, SETTINGS)
    assert "No search was asked for" in (tmp_path / "trials.html").read_text()
    [spent] = cost.read(tmp_path / "hyperparameters")
    assert (spent.trials, spent.seconds, spent.usd) == (0, 0, 0)


def test_trials_train_and_the_best_values_are_what_train_takes(
    development: Path, tmp_path: Path
) -> None:
    summary = run(development, tmp_path, trials=2, epochs=1)
    assert summary["trials_finished"] + summary["trials_pruned"] == 2
    assert 0 <= summary["best_validation_accuracy"] <= 1
    Hyperparameters(**written(tmp_path))
    rows = artifacts.read_json(tmp_path / "hyperparameters" / "trials.json")
    [spent] = cost.read(tmp_path / "hyperparameters")
    assert (spent.trials, spent.usd) == (2, None)
    assert spent.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert re.fullmatch(r"\w+, \d+ cores?, (no GPU|.*)", spent.machine)
    page = (tmp_path / "trials.html").read_text()
    assert len(page) < 1_000_000
    assert not list(tmp_path.glob(".*"))


def test_the_search_finds_the_better_values_and_prunes_the_worse(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence()
    pretend(monkeypatch, pretence)
    summary = run(development, tmp_path, trials=24)
    assert summary["trials_finished"] + summary["trials_pruned"] == 24
    assert summary["trials_pruned"] > 3
    assert pretence.epochs < 24 * 4
    assert written(tmp_path)["dropout"] > 0.6
    assert summary["best_validation_accuracy"] == written(tmp_path)["dropout"]
    for values in pretence.seen:
        for name, one in search_space.DEFAULTS.items():
            assert isinstance(one, search_space.Range)
            assert one.low <= getattr(values, name) <= one.high


def test_the_given_values_are_tried_first_moved_into_the_space(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence()
    pretend(monkeypatch, pretence)
    run(development, tmp_path, trials=1)
    assert "say too little about which value mattered" in (tmp_path / "trials.html").read_text()
    first = pretence.seen[0]
    assert first.learning_rate == pytest.approx(1e-3)
    assert first.dropout == pytest.approx(START.dropout)
    assert first.freq_mask == pytest.approx(START.freq_mask)


def test_a_killed_search_goes_on_without_losing_or_repeating_trials(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, rest = Pretence(dies_at=4), Pretence()
    pretend(monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        run(development, tmp_path, trials=6)
    assert not (tmp_path / "hyperparameters").exists()
    pretend(monkeypatch, rest)
    run(development, tmp_path, trials=6)
    assert len(rest.seen) == 3
    assert not {v.dropout for v in killed.seen[:3]} & {v.dropout for v in rest.seen}
    rows = json.loads((tmp_path / "hyperparameters" / "trials.json").read_text())
    finished = [row for row in rows if row["state"] in {"complete", "pruned"}]
    assert len(finished) == 6


def test_another_run_goes_on_where_a_killed_one_kept_its_trials(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `resume` does: another folder of outputs, the same folder of checkpoints."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / ".checkpoints"))
    killed, rest = Pretence(dies_at=3), Pretence()
    pretend(monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        run(development, tmp_path / "first", trials=5)
    assert len(list((tmp_path / ".checkpoints").glob("*/"))) == 1
    pretend(monkeypatch, rest)
    run(development, tmp_path / "second", trials=5)
    assert len(rest.seen) == 3
    assert rest.seen[0] == killed.seen[2]
    assert not (tmp_path / ".checkpoints").exists()


def test_without_validation_a_search_is_refused(tmp_path: Path) -> None:
    takes = [Take("low", [song(700, 2)], part="train"), Take("high", [song(5000, 2)], part="train")]
    write_features(tmp_path / "development", ["low", "high"], takes)
    with pytest.raises(DataError, match="validation_fraction"):
        run(tmp_path / "development", tmp_path, trials=3)


def test_what_is_searched_beside_the_five_reaches_each_trial_and_train(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence()
    pretend(monkeypatch, pretence)
    space = {
        "pos_weight": {"low": 2, "high": 8, "log": True},
        "batch_size": [2, 6],
        "dropout": [0, 0.4],
        "reduce_db": None,
    }
    run(development, tmp_path, trials=8, space=json.dumps(space))
    assert pretence.configs[0].pos_weight == 2
    assert pretence.configs[0].batch_size == 4
    for values, config in zip(pretence.seen, pretence.configs, strict=True):
        assert 2 <= config.pos_weight <= 8
        assert 2 <= config.batch_size <= 6
        assert values.dropout <= 0.4
        assert values.reduce_db == START.reduce_db
    chosen = written(tmp_path)
    assert set(chosen) == {*Hyperparameters.model_fields, "pos_weight", "batch_size"}
    values, config = hyperparameters.read(tmp_path / "hyperparameters", SETTINGS)
    assert (config.pos_weight, config.batch_size) == (chosen["pos_weight"], chosen["batch_size"])
    assert values.dropout == chosen["dropout"]
    assert config == SETTINGS.model_copy(
        update={name: chosen[name] for name in ("pos_weight", "batch_size")}
    )


def test_what_train_cannot_take_is_refused_with_its_place(
    development: Path, tmp_path: Path
) -> None:
    run(development, tmp_path, trials=0)
    file = tmp_path / "hyperparameters" / "hyperparameters.json"
    for text, told in (
        ('{"learning_rat": 1}', "learning_rat: not a setting"),
        ('{"dropout": 2}', "dropout"),
        ("[]", "no JSON object"),
        ("{", "cannot be read as JSON"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=told):
            hyperparameters.read(tmp_path / "hyperparameters", SETTINGS)


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nGraph: ...")
    pretence = Pretence(
        fails={
            2: DataError("train: the loss of epoch 1 is nan. Lower learning_rate."),
            3: exhausted,
            5: MemoryError(),
        }
    )
    pretend(monkeypatch, pretence)
    summary = run(development, tmp_path, trials=8)
    assert summary["trials_failed"] == 3
    assert summary["trials_finished"] + summary["trials_pruned"] == 5
    rows = json.loads((tmp_path / "hyperparameters" / "trials.json").read_text())
    assert [row["error"] for row in rows if row["state"] == "failed"] == [
        "DataError: train: the loss of epoch 1 is nan. Lower learning_rate.",
        "not enough memory of the device (OOM when allocating).",
        "not enough memory.",
    ]
    page = (tmp_path / "trials.html").read_text()
    assert "the loss of epoch 1 is nan" in page


def test_where_every_trial_fails_the_error_says_why_and_nothing_is_left(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Pretence(fails=dict.fromkeys(range(1, 99), DataError("the loss is nan.")))
    pretend(monkeypatch, broken)
    with pytest.raises(DataError, match=r"each of 5 trials failed.*DataError: the loss is nan\."):
        run(development, tmp_path, trials=40)
    assert list(tmp_path.iterdir()) == []
    pretend(monkeypatch, Pretence())
    assert run(development, tmp_path, trials=2)["trials_finished"] == 2


def test_weights_that_cannot_be_had_end_the_search_at_once(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence(fails={1: StorageError("no network")})
    pretend(monkeypatch, pretence)
    with pytest.raises(StorageError, match="no network"):
        run(development, tmp_path, trials=4)
    assert len(pretence.seen) == 1


def test_a_defect_of_our_own_is_no_failed_trial(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, Pretence(fails={1: KeyError("x")}))
    with pytest.raises(KeyError):
        run(development, tmp_path, trials=2)


def test_the_page_shows_history_importance_coordinates_and_a_table_that_sorts(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, Pretence())
    run(development, tmp_path, trials=9, space='{"front_end": ["full", "small"]}')
    page = (tmp_path / "trials.html").read_text()
    assert page.count("<svg role=") == 4
    for caption in (
        "best so far",
        "each value explains",
        "Each line is a trial",
        "each value alone",
    ):
        assert caption in page
    assert 'id="trials" class="sorts"' in page
    assert page.count("<script>") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(page) < 300_000


def test_what_mattered_is_found_and_too_few_or_equal_trials_say_nothing() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    space = search_space.parse('{"front_end": ["full", "small"]}').distributions()
    for number in range(40):
        trial = study.ask(space)
        study.tell(trial, trial.params["dropout"])
        if number in (0, 3):
            assert search_page.importance(study) is None
    found = search_page.importance(study)
    assert found is not None
    assert set(found) == set(space)
    assert found["dropout"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
    level = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        level.tell(level.ask(space), 0.5)
    assert search_page.importance(level) is None


def test_several_devices_and_several_processes_are_not_asked_for_at_once(
    development: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="trial_workers=1 or devices=1"):
        search.tune(
            development,
            tmp_path / "hyperparameters",
            tmp_path / "trials.html",
            TuneConfig(trials=2, workers=2),
            SETTINGS.model_copy(update={"devices": 2}),
            START,
        )


@pytest.mark.parametrize(
    ("seen", "taken"),
    [("3,5", ["3", "5", "3"]), ("7", ["7", "7", "7"]), ("", ["", "", ""])],
    ids=["two", "one", "none"],
)
def test_each_process_takes_one_of_several_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, seen: str, taken: list[str]
) -> None:
    for number, expected in enumerate(taken):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        search._take_a_gpu(number)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.slow
def test_two_workers_share_the_trials_of_one_search(development: Path, tmp_path: Path) -> None:
    summary = run(development, tmp_path, trials=4, epochs=1, workers=2)
    assert summary["trials_finished"] + summary["trials_pruned"] == 4
    rows = json.loads((tmp_path / "hyperparameters" / "trials.json").read_text())
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert not list(tmp_path.glob(".*"))
