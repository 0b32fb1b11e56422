"""Labelled soundscapes: frames on the labels' grid, whatever the windows do."""

from pathlib import Path

import made_bundles
import numpy as np
import pytest
import soundfile
from made_bundles import CODES, TONES_HZ
from made_features import RATE, write_model

from birdsong.errors import ConfigError, DataError
from birdsong.frame_metrics import read_frame_labels
from birdsong.kubeflow import arguments as cluster_arguments
from birdsong.kubeflow.settings import ClusterSettings
from birdsong.runs import arguments, outside, surroundings
from birdsong.scoring import Scorer
from birdsong.soundscapes import find_recordings, measure, score_frames

HEAD = "row_id,site,audio_id,seconds,birds\n"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Hears each tone by its own band; anything else scores low."""
    place = tmp_path_factory.mktemp("model") / "model"
    return Scorer(write_model(place, CODES, made_bundles._write_graph))


def soundscape(heard: list[int | None], noise: float = 0.01, before: float = 0.0) -> np.ndarray:
    """5 seconds of a tone or of noise for each entry, the first `before` seconds silent."""
    rng = np.random.default_rng(0)
    time = np.arange(5 * RATE) / RATE
    waves = [
        noise * rng.standard_normal(len(time))
        + (0 if tone is None else 0.5 * np.sin(2 * np.pi * TONES_HZ[tone] * time))
        for tone in heard
    ]
    wave = np.concatenate(waves)
    wave[: round(before * RATE)] = 0
    return wave


def written(folder: Path, heard: list[int | None], before: float = 0.0, until: int = 0) -> Path:
    """A soundscape of recording 7 with the table of its labels; gives the table."""
    (folder / "train_soundscapes").mkdir()
    wave = soundscape(heard, before=before)
    soundfile.write(folder / "train_soundscapes" / "7_XYZ_20260501.flac", wave, RATE)
    lines = [
        f"7_XYZ_{5 * (place + 1)},XYZ,7,{5 * (place + 1)},"
        f"{'nocall' if tone is None else CODES[tone]}\n"
        for place, tone in enumerate([*heard, *[None] * until])
    ]
    (folder / "labels.csv").write_text(HEAD + "".join(lines))
    return folder / "labels.csv"


def test_each_frame_is_scored_where_its_label_is_also_beyond_the_first_window(
    scorer: Scorer, tmp_path: Path
) -> None:
    heard = [0, None, 1, 2, None, 0, 1, None, 2, 0, None, 1, 2, 0, None]
    table = written(tmp_path, heard)
    scores = score_frames(scorer, read_frame_labels(table), table)
    assert scores.shape == (15, 3)
    for row, tone in zip(scores, heard, strict=True):
        if tone is not None:
            assert row.argmax() == tone
            assert row[tone] > 0.8
        else:
            assert row.max() < 0.8


def test_silence_before_a_window_does_not_shift_its_frames(scorer: Scorer, tmp_path: Path) -> None:
    heard = [None, None, 1, 2, 0]
    table = written(tmp_path, heard, before=10.9)
    scores = score_frames(scorer, read_frame_labels(table), table)
    assert (scores[:2] == 0).all()
    assert scores[2:].argmax(axis=1).tolist() == [1, 2, 0]


def test_figures_stand_beside_those_of_never_reporting_a_bird(
    scorer: Scorer, tmp_path: Path
) -> None:
    table = written(tmp_path, [0, None, 1, None])
    with table.open("a") as file:
        file.write("8_XYZ_5,XYZ,8,5,unheard\n")
    soundfile.write(tmp_path / "8.ogg", soundscape([None]), RATE)
    found = measure(scorer, table, np.full(3, 0.8), 0)
    assert (found["frames"], found["frames_without_birds"], found["recordings"]) == (5, 2, 2)
    assert found["unknown_species"] == ["unheard"]
    assert found["network"]["row_f1"]["value"] == pytest.approx(4 / 5)
    assert found["silence"]["row_f1"]["value"] == pytest.approx(2 / 5)
    # Of two recordings no interval can be told.
    assert found["network"]["row_f1"]["low"] is None


def test_a_recording_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    table = written(tmp_path, [0])
    labels = read_frame_labels(table)
    assert find_recordings(labels, table)["7"].name == "7_XYZ_20260501.flac"
    (tmp_path / "7.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"'7' needs one sound file.*are 7\.wav, train_sound"):
        find_recordings(labels, table)
    (tmp_path / "7.wav").unlink()
    (tmp_path / "train_soundscapes" / "7_XYZ_20260501.flac").rename(tmp_path / "70_X.flac")
    with pytest.raises(DataError, match="there is none"):
        find_recordings(labels, table)


def test_labels_beyond_the_recording_or_off_the_grid_are_refused(
    scorer: Scorer, tmp_path: Path
) -> None:
    table = written(tmp_path, [0, 1], until=1)
    with pytest.raises(
        DataError, match=r"labelled up to 15 s, but 7_XYZ_20260501\.flac ends at 10"
    ):
        score_frames(scorer, read_frame_labels(table), table)
    table.write_text(HEAD + "7_XYZ_7,XYZ,7,7,nocall\n")
    with pytest.raises(DataError, match="ends at 7 s; frames end at 5, 10, 15"):
        score_frames(scorer, read_frame_labels(table), table)


def test_a_run_sees_the_table_and_the_recordings_beside_it(tmp_path: Path) -> None:
    (tmp_path / "labelled").mkdir()
    table = tmp_path / "labelled" / "labels.csv"
    with pytest.raises(ConfigError, match=r"frame_labels: .*labels\.csv does not exist"):
        arguments.check({"frame_labels": str(table)})
    table.write_text(HEAD)
    arguments.check({"frame_labels": str(table)})
    found = arguments.places({"frame_labels": f"file://{table.parent}/../labelled/labels.csv"})
    assert found == {"frame_labels": str(table)}
    mounts = surroundings.mounts({"frame_labels": str(table)}, tmp_path / "runs")
    assert [(one.source, one.writable) for one in mounts[1:]] == [(table.parent, False)]
    before = outside.state({"frame_labels": str(table)})
    (table.parent / "7.wav").write_bytes(b"new")
    assert outside.state({"frame_labels": str(table)}) != before


def test_no_pod_sees_a_table_of_this_machine(tmp_path: Path) -> None:
    settings = ClusterSettings(registry="http://mlflow:5000")
    with pytest.raises(ConfigError, match=r"frame_labels .*no pod sees this machine's files"):
        cluster_arguments._check(
            {"registry": "http://mlflow:5000", "weights": "none", "frame_labels": str(tmp_path)},
            settings,
        )
