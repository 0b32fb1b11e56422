"""The search: trials, pruning, what it starts from, and going on after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_features import Take, song, write_features

from birdsong import search, training
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import DataError

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

    def __init__(self, dies_at: int | None = None) -> None:
        self.seen: list[Hyperparameters] = []
        self.epochs = 0
        self.dies_at = dies_at

    def __call__(
        self,
        features: Any,
        hyperparameters: Hyperparameters,
        config: TrainConfig,
        label: str,
        after_epoch: Any,
    ) -> None:
        self.seen.append(hyperparameters)
        if len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        for number in range(1, config.epochs + 1):
            self.epochs += 1
            after_epoch(training.Epoch(number, 1.0, 1.0, hyperparameters.dropout, 1e-3, 0.0))


def run(development: Path, out: Path, trials: int, epochs: int = 4) -> dict[str, float]:
    return search.tune(
        development,
        out / "hyperparameters",
        out / "trials.html",
        TuneConfig(trials=trials, epochs=epochs),
        SETTINGS,
        START,
    )


def written(out: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        (out / "hyperparameters" / "hyperparameters.json").read_text()
    )
    return found


def test_no_trials_pass_the_values_on(development: Path, tmp_path: Path) -> None:
    assert run(development, tmp_path, trials=0) == {"trials_finished": 0, "trials_pruned": 0}
    assert written(tmp_path) == START.model_dump()
    assert "No search was asked for" in (tmp_path / "trials.html").read_text()


def test_trials_train_and_the_best_values_are_what_train_takes(
    development: Path, tmp_path: Path
) -> None:
    summary = run(development, tmp_path, trials=2, epochs=1)
    assert summary["trials_finished"] + summary["trials_pruned"] == 2
    assert 0 <= summary["best_validation_accuracy"] <= 1
    Hyperparameters(**written(tmp_path))
    page = (tmp_path / "trials.html").read_text()
    assert len(page) < 1_000_000
    assert not list(tmp_path.glob(".*"))


def test_the_search_finds_the_better_values_and_prunes_the_worse(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence()
    monkeypatch.setattr(training, "fit", pretence)
    summary = run(development, tmp_path, trials=24)
    assert summary["trials_finished"] + summary["trials_pruned"] == 24
    assert summary["trials_pruned"] > 3
    assert pretence.epochs < 24 * 4
    assert written(tmp_path)["dropout"] > 0.6
    assert summary["best_validation_accuracy"] == written(tmp_path)["dropout"]
    for values in pretence.seen:
        for name, (low, high) in search.SPACE.items():
            assert low <= getattr(values, name) <= high


def test_the_given_values_are_tried_first_moved_into_the_space(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence = Pretence()
    monkeypatch.setattr(training, "fit", pretence)
    run(development, tmp_path, trials=1)
    first = pretence.seen[0]
    assert first.learning_rate == pytest.approx(1e-3)
    assert first.dropout == pytest.approx(START.dropout)
    assert first.freq_mask == pytest.approx(START.freq_mask)


def test_a_killed_search_goes_on_without_losing_or_repeating_trials(
    development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, rest = Pretence(dies_at=4), Pretence()
    monkeypatch.setattr(training, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(development, tmp_path, trials=6)
    assert not (tmp_path / "hyperparameters").exists()
    monkeypatch.setattr(training, "fit", rest)
    run(development, tmp_path, trials=6)
    assert len(rest.seen) == 3
    assert not {v.dropout for v in killed.seen[:3]} & {v.dropout for v in rest.seen}
    rows = json.loads((tmp_path / "hyperparameters" / "trials.json").read_text())
    finished = [row for row in rows if row["state"] in {"complete", "pruned"}]
    assert len(finished) == 6


def test_without_validation_a_search_is_refused(tmp_path: Path) -> None:
    takes = [Take("low", [song(700, 2)], part="train"), Take("high", [song(5000, 2)], part="train")]
    write_features(tmp_path / "development", ["low", "high"], takes)
    with pytest.raises(DataError, match="validation_fraction"):
        run(tmp_path / "development", tmp_path, trials=3)
