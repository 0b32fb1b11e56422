"""Training on songs that are easy to tell apart, and what it does with hard data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_features import Take, song, write_features

from birdsong import artifacts, audio, augment, training
from birdsong.ahead import read_ahead
from birdsong.config import FRONT_ENDS, Hyperparameters, TrainConfig
from birdsong.errors import ConfigError, DataError
from birdsong.features import FeatureSet
from birdsong.scoring import Scorer
from birdsong.trainer import Trainer, as_tensors
from birdsong.training_data import Batch, TrainingWindows, Windows, quietest_frame

FRAME = 110_250
CODES = ["low", "middle", "high"]
HERTZ = {"low": 700.0, "middle": 2500.0, "high": 6000.0}
SETTINGS = TrainConfig(
    backbone="tiny", weights="none", front_end="small", epochs=6, batch_size=8, seed=3
)
VALUES = Hyperparameters(
    learning_rate=3e-3, time_mask=0.1, freq_mask=0.05, reduce_db=0.1, dropout=0.1
)


def takes(validation: bool = True, count: int = 8) -> list[Take]:
    """Tones over noise, 3 to 13 s; some with a second window, some with a secondary label."""
    found = []
    for code in CODES:
        for number in range(count):
            windows = [song(HERTZ[code], 3 + number % 3 * 5, seed=number, noise=0.3)]
            if number == 1:
                windows.append(song(HERTZ[code], 5, seed=99, noise=0.3))
            held_out = validation and number >= count - 2
            other = ("high",) if code == "low" and number == 2 else ()
            found.append(Take(code, windows, other, part="validation" if held_out else "train"))
    return found


def write_hyperparameters(path: Path, **more: float) -> Path:
    with artifacts.create(path, "hyperparameters", {}) as folder:
        artifacts.write_json(folder.path / "hyperparameters.json", {**VALUES.model_dump(), **more})
    return path


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return write_features(tmp_path_factory.mktemp("features") / "development", CODES, takes())


@pytest.fixture(scope="module")
def trained(
    development: FeatureSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    root = tmp_path_factory.mktemp("trained")
    hyperparameters = write_hyperparameters(root / "hyperparameters")
    summary = training.train(
        development.path, hyperparameters, root / "model", root / "history.html", SETTINGS
    )
    return root, summary


def test_easy_songs_are_learnt_and_the_summary_names_both_accuracies(
    trained: tuple[Path, dict[str, float]],
) -> None:
    _, summary = trained
    assert summary["validation_accuracy"] >= 0.8
    assert 0 <= summary["baseline_validation_accuracy"] <= 1
    assert 1 <= summary["best_epoch"] <= summary["epochs"] == 6
    assert all(isinstance(value, float) and np.isfinite(value) for value in summary.values())


def test_the_model_artifact_is_whole_and_scores_from_stored_windows(
    trained: tuple[Path, dict[str, float]], development: FeatureSet
) -> None:
    root, summary = trained
    artifacts.verify(root / "model")
    names = {path.name for path in (root / "model").iterdir()}
    assert {"weights.weights.h5", "model.json", "classes.json", "saved_model"} <= names
    assert {"baseline.npz", "baseline.json", "history.json", "spec.json"} <= names
    scorer = Scorer(root / "model")
    assert list(scorer.codes) == CODES
    rows = development.select("validation")
    hits = [
        CODES[int(scorer.window(development.waveform(row)).argmax())]
        == development.index["label"].iloc[row]
        for row in rows
    ]
    assert np.mean(hits) == pytest.approx(summary["validation_accuracy"])


def test_silence_one_sample_clipping_and_noise_give_finite_scores(
    trained: tuple[Path, dict[str, float]],
) -> None:
    scorer = Scorer(trained[0] / "model")
    random = np.random.default_rng(0)
    hard = [
        np.zeros(5000, np.int16),
        np.array([32767], np.int16),
        np.sign(song(700, 5).astype(float)).astype(np.int16) * 32767,
        (random.normal(size=200_000) * 5000).clip(-32767, 32767).astype(np.int16),
    ]
    assert all(np.isfinite(scorer.window(window)).all() for window in hard)


def test_the_page_of_curves_is_small_and_fetches_nothing(
    trained: tuple[Path, dict[str, float]],
) -> None:
    page = (trained[0] / "history.html").read_text()
    assert len(page) < 1_000_000
    # SVG's namespaces are names; nothing is fetched from there.
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "baseline" in page


def test_the_same_seed_gives_the_same_training_and_another_seed_another(
    development: FeatureSet,
) -> None:
    def losses(seed: int) -> list[float]:
        config = SETTINGS.model_copy(update={"epochs": 1, "seed": seed})
        return [epoch.loss for epoch in training.fit(development, VALUES, config).epochs]

    assert losses(5) == losses(5)
    assert losses(5) != losses(6)


def test_without_validation_the_last_epoch_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path / "development", CODES, takes(validation=False, count=2))
    summary = training.train(
        tmp_path / "development",
        write_hyperparameters(tmp_path / "hyperparameters", mixup=0.5),
        tmp_path / "model",
        tmp_path / "history.html",
        SETTINGS.model_copy(update={"epochs": 2, "patience": 1}),
    )
    # What a search chose beside the five stands in the model's settings as it was trained.
    assert json.loads((tmp_path / "model" / "model.json").read_text())["train"]["mixup"] == 0.5
    assert summary["best_epoch"] == 2
    assert "validation_accuracy" not in summary
    assert "the last epoch is taken" in capsys.readouterr().out
    assert "no validation recordings" in (tmp_path / "history.html").read_text()
    assert json.loads((tmp_path / "model" / "history.json").read_text())["best_epoch"] == 2


def run_with_figures(
    monkeypatch: pytest.MonkeyPatch,
    development: FeatureSet,
    figures: list[float],
    patience: int = 0,
    losses: list[float] | None = None,
) -> training.Fit:
    """A training whose epochs do nothing and show these accuracies and validation losses."""

    def epoch(trainer: Any, windows: Any, validation: Any, number: int, steps: int) -> Any:
        weights = [np.full_like(value, number) for value in trainer.network.get_weights()]
        trainer.network.set_weights(weights)
        loss = losses[number - 1] if losses else 1.0
        return training.Epoch(number, 1.0, loss, figures[number - 1], 1e-3, 0.1)

    monkeypatch.setattr(training, "_run_epoch", epoch)
    config = SETTINGS.model_copy(update={"epochs": len(figures), "patience": patience})
    return training.fit(development, VALUES, config)


def test_a_later_epoch_wins_only_when_the_rounded_accuracy_rises(
    monkeypatch: pytest.MonkeyPatch, development: FeatureSet
) -> None:
    result = run_with_figures(monkeypatch, development, [0.0, 0.711, 0.714, 0.713, 0.716, 0.72])
    assert result.best_epoch == 5
    assert result.accuracy == 0.716
    assert float(result.network.get_weights()[0].max()) == 5


def test_of_epochs_with_equal_rounded_accuracy_the_lowest_loss_wins(
    monkeypatch: pytest.MonkeyPatch, development: FeatureSet
) -> None:
    figures, losses = [0.9, 0.9, 0.896, 0.9, 0.5], [0.5, 0.4, 0.3, 0.35, 0.1]
    result = run_with_figures(monkeypatch, development, figures, losses=losses)
    assert (result.best_epoch, result.accuracy) == (3, 0.896)


def test_patience_stops_when_the_rounded_accuracy_has_not_risen_for_long(
    monkeypatch: pytest.MonkeyPatch, development: FeatureSet
) -> None:
    figures, losses = [0.5, 0.6, 0.601, 0.602, 0.9], [5.0, 4.0, 3.0, 2.0, 1.0]
    result = run_with_figures(monkeypatch, development, figures, 2, losses)
    assert result.stopped_early
    assert (len(result.epochs), result.best_epoch) == (4, 4)


def test_an_accuracy_of_0_keeps_the_first_of_equal_epochs(
    monkeypatch: pytest.MonkeyPatch, development: FeatureSet
) -> None:
    assert run_with_figures(monkeypatch, development, [0.0, 0.0, 0.0]).best_epoch == 1


def test_a_species_without_training_recordings_is_an_error(tmp_path: Path) -> None:
    features = write_features(tmp_path / "development", [*CODES, "absent"], takes())
    with pytest.raises(DataError, match="absent"):
        training.fit(features, VALUES, SETTINGS)


def test_a_loss_that_is_not_finite_stops_the_training(development: FeatureSet) -> None:
    wild = VALUES.model_copy(update={"learning_rate": float("nan")})
    with pytest.raises(DataError, match="Lower learning_rate"):
        training.fit(development, wild, SETTINGS.model_copy(update={"epochs": 1}))


def test_features_at_another_rate_are_refused(development: FeatureSet) -> None:
    with pytest.raises(ConfigError, match="sample_rate"):
        Trainer(SETTINGS, VALUES, CODES, 16_000, 10)


def test_the_reference_profile_is_built_and_takes_a_step(development: FeatureSet) -> None:
    config = TrainConfig(weights="none", batch_size=2)
    assert (config.backbone, config.front_end) == ("inception_v3", "full")
    trainer = Trainer(config, Hyperparameters(), CODES, 22_050, 10)
    windows = TrainingWindows(development, FRAME, 0.0, 0)
    short = np.argsort(windows.samples)[:2]
    before = trainer.network.get_weights()[0].copy()
    batch = as_tensors(windows._with_partners(short, np.random.default_rng(0)))
    assert np.isfinite(float(trainer.step(batch, 0)))
    assert not np.array_equal(trainer.network.get_weights()[0], before)


def test_training_uses_the_frame_that_scores_highest_for_the_primary_species(
    trained: tuple[Path, dict[str, float]], development: FeatureSet
) -> None:
    trainer = Trainer(SETTINGS, VALUES, CODES, 22_050, 10)
    trainer.network.load_weights(trained[0] / "model" / "weights.weights.h5")
    scorer = Scorer(trained[0] / "model")
    windows = Windows(development, "train", FRAME)
    positions = np.flatnonzero(windows.samples > 2 * FRAME)[:4]
    assert len(positions) == 4
    seed = np.array([0, 5], np.int32)
    chosen = trainer.best_frames(as_tensors(windows.batch(positions)), seed).numpy()
    starts = augment.random_starts(windows.samples[positions], FRAME, seed).numpy()
    assert starts.any()
    for frame, position, start in zip(chosen, positions, starts, strict=True):
        cut = development.waveform(int(windows.rows[position]))[start:]
        frames = audio.frames(cut, development.config)
        scores = scorer.frames(frames)[:, windows.primary[position]]
        np.testing.assert_allclose(frame, frames[scores.argmax()], atol=1e-6)


def test_an_epoch_has_each_window_once_in_even_batches_and_a_new_order(
    development: FeatureSet,
) -> None:
    windows = TrainingWindows(development, FRAME, 0.0, seed=1)
    batches = list(windows.epoch(1, 8))
    sizes = [len(batch.samples) for batch in batches]
    assert len(batches) == windows.steps(8)
    assert sum(sizes) == len(windows)
    assert max(sizes) - min(sizes) <= 1
    species = np.concatenate([batch.primary for batch in batches])
    assert np.array_equal(np.sort(species), np.sort(windows.primary))
    again = np.concatenate([batch.samples for batch in windows.epoch(1, 8)])
    other = np.concatenate([batch.samples for batch in windows.epoch(2, 8)])
    assert np.array_equal(again, np.concatenate([batch.samples for batch in batches]))
    assert not np.array_equal(again, other)


def test_partners_are_other_recordings_of_the_species_repeated_to_a_frame(tmp_path: Path) -> None:
    short = np.full(1000, 500, np.int16)
    alone = [Take("high", [song(6000, 6)], part="train")]
    pair = [Take("low", [short], part="train"), Take("low", [short * 2], part="train")]
    two_windows = [Take("middle", [song(2500, 6), song(2500, 6)], part="train")]
    features = write_features(tmp_path / "f", CODES, [*alone, *pair, *two_windows])
    windows = TrainingWindows(features, FRAME, 0.0, seed=0)
    for number in range(6):
        (batch,) = windows.epoch(number, 16)
        for row, primary in enumerate(batch.primary):
            if CODES[primary] != "low":
                # The only recording of its species, also when it has several windows.
                assert not batch.paired[row]
            elif batch.paired[row]:
                expected = 1500 - batch.waveforms[row, 0]
                assert set(batch.partners[row]) == {expected}


def test_class_balance_evens_out_the_species(tmp_path: Path) -> None:
    many = [Take("low", [np.full(50, 9, np.int16)], part="train")] * 90
    few = [Take("high", [np.full(50, 9, np.int16)], part="train")] * 10
    features = write_features(tmp_path / "f", ["low", "high"], [*many, *few])

    def share(balance: float) -> float:
        windows = TrainingWindows(features, FRAME, balance, seed=0)
        drawn = [b.primary for n in range(20) for b in windows.epoch(n, 50)]
        return float(np.mean(np.concatenate(drawn) == 1))

    assert share(0.0) == pytest.approx(0.1)
    assert share(1.0) == pytest.approx(0.5, abs=0.05)
    assert 0.15 < share(0.5) < 0.35


def test_a_species_that_is_primary_and_secondary_is_primary(tmp_path: Path) -> None:
    beep = np.full(50, 9, np.int16)
    found = [
        Take("middle", [beep], ("middle", "high", "elsewhere")),
        Take("low", [beep, beep]),
        Take("high", [beep], ("middle", "low")),
    ]
    windows = Windows(write_features(tmp_path / "f", CODES, found), "test", FRAME)
    whole = [[0, 1, -1], [1, 0, 0], [1, 0, 0], [-1, -1, 1]]
    assert windows.labels().tolist() == whole
    assert windows.labels([3, 0, 3]).tolist() == [whole[3], whole[0], whole[3]]


def test_background_is_a_quiet_frame_of_another_species(tmp_path: Path) -> None:
    loud, soft = np.full(FRAME, 20_000, np.int16), np.full(FRAME, 300, np.int16)
    even = Take("high", [np.full(3 * FRAME, 9_000, np.int16)], part="train")
    changing = Take("low", [np.concatenate([loud, soft, loud])], part="train")
    features = write_features(tmp_path / "f", ["low", "high"], [even, changing])
    windows = TrainingWindows(features, FRAME, 0.0, seed=0, background=1.0)
    heard = 0
    for number in range(12):
        (batch,) = windows.epoch(number, 16)
        low, high = (int(np.flatnonzero(batch.primary == n)[0]) for n in (0, 1))
        # The other recording has no frame that is quieter than the rest.
        assert not batch.noisy[low]
        if batch.noisy[high]:
            heard += 1
            assert set(batch.backgrounds[high]) == {300}
    assert 0 < heard < 12  # at times it met itself, whose own song is no background


def test_given_audio_without_birds_is_the_background(tmp_path: Path) -> None:
    song_ = np.full(2 * FRAME, 9_000, np.int16)
    takes_ = [Take("low", [song_], part="train"), Take("", [song_ // 9], part="no_call")]
    features = write_features(tmp_path / "f", ["low"], takes_)
    windows = TrainingWindows(features, FRAME, 0.0, seed=0, background=0.5)
    drawn = [batch for number in range(60) for batch in windows.epoch(number, 16)]
    assert 15 < sum(int(batch.noisy[0]) for batch in drawn) < 45
    assert all(set(batch.backgrounds[0]) == {1000} for batch in drawn if batch.noisy[0])


def test_the_quietest_frame_is_whole_and_none_where_all_are_alike() -> None:
    rising = np.repeat(np.array([8_000, 100, 4_000], np.int16), FRAME)
    found = quietest_frame(np.concatenate([rising, [0, 0, 0]]).astype(np.int16), FRAME)
    assert found is not None
    assert set(found) == {100}
    assert quietest_frame(np.full(4 * FRAME, -5, np.int16), FRAME) is None
    assert quietest_frame(np.zeros(3 * FRAME, np.int16), FRAME) is not None  # silence is quiet
    assert quietest_frame(np.full(FRAME - 1, 5, np.int16), FRAME) is None
    full_scale = np.repeat(np.array([-32_768, 32_767], np.int16), FRAME)
    assert quietest_frame(full_scale, FRAME) is None


def test_a_better_rating_weighs_more_and_none_weighs_as_the_middle(tmp_path: Path) -> None:
    beep = np.full(50, 9, np.int16)
    ratings = [5.0, 0.0, None, 1.0, 3.0]
    found = [Take("low", [beep], part="train", rating=rating) for rating in ratings]
    features = write_features(tmp_path / "f", ["low"], found)
    weighing = TrainingWindows(features, FRAME, 0.0, 0, rating_weight=1.0)
    np.testing.assert_allclose(weighing.worth, [1.0, 0.6, 0.6, 0.2, 0.6], rtol=1e-6)
    half = TrainingWindows(features, FRAME, 0.0, 0, rating_weight=0.5)
    np.testing.assert_allclose(half.worth, [1.0, 0.8, 0.8, 0.6, 0.8], rtol=1e-6)
    (batch,) = half.epoch(1, 8)
    assert sorted(batch.weights) == sorted(half.worth)
    assert set(TrainingWindows(features, FRAME, 0.0, 0).worth) == {1.0}


def test_each_switch_changes_what_a_step_learns(development: FeatureSet) -> None:
    plain = next(TrainingWindows(development, FRAME, 0.0, 1).epoch(1, 4))
    count = len(plain.samples)
    noise = np.random.default_rng(0).integers(-9000, 9000, (count, FRAME)).astype(np.int16)
    noisy = plain._replace(backgrounds=noise, noisy=np.ones(count, bool))
    rated = plain._replace(weights=np.linspace(0.2, 1, count, dtype=np.float32))

    def loss(batch: Batch, **switch: float) -> float:
        config = SETTINGS.model_copy(update=switch)
        trainer = Trainer(config, VALUES, CODES, 22_050, 10)
        return float(trainer.step(as_tensors(batch), 3))

    losses = [
        loss(plain),
        loss(plain, mixup=1.0),
        loss(noisy, background=1.0),
        loss(plain, gain_db=20.0),
        loss(plain, label_smoothing=0.1),
        loss(rated, rating_weight=1.0),
    ]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses)


def test_a_recording_counts_once_by_the_best_of_its_windows(tmp_path: Path) -> None:
    quiet = np.full(50, 9, np.int16)
    found = [Take("low", [quiet, quiet]), Take("high", [quiet], ("middle",))]
    windows = Windows(write_features(tmp_path / "f", CODES, found), "test", FRAME)
    scores = np.array([[0.1, 0.2, 0.0], [0.9, 0.2, 0.0], [0.0, 0.5, 0.1]])
    assert training.recording_accuracy(windows, scores) == 1
    assert training.recording_accuracy(windows, scores[[0, 0, 2]]) == 0.5


def test_windows_score_the_same_together_and_alone(
    trained: tuple[Path, dict[str, float]], development: FeatureSet
) -> None:
    trainer = Trainer(SETTINGS, VALUES, CODES, 22_050, 10)
    trainer.network.load_weights(trained[0] / "model" / "weights.weights.h5")
    windows = Windows(development, "validation", FRONT_ENDS["small"].frame_samples)
    logits = training.score_windows(trainer, windows)
    scorer = Scorer(trained[0] / "model")
    for position, row in enumerate(windows.rows):
        alone = scorer.window(development.waveform(int(row)))
        np.testing.assert_allclose(1 / (1 + np.exp(-logits[position])), alone, atol=1e-5)


def test_an_error_while_reading_ahead_comes_out_and_the_thread_ends() -> None:
    def broken() -> Any:
        yield 1
        raise DataError("a shard is gone")

    with pytest.raises(DataError, match="a shard is gone"):
        list(read_ahead(broken(), 2))
    endless = read_ahead(iter(lambda: 1, 0), 2)
    assert next(endless) == 1
    endless.close()
