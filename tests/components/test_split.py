"""The split stage as KFP calls it, on what ingest made of a folder."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import HTML, Dataset, Metrics

from birdsong import artifacts, demo_data, recordings
from birdsong.config import IngestConfig
from birdsong.errors import ConfigError, DataError
from components.split import split


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a folder whose metadata have a split of the user's own."""
    root = tmp_path_factory.mktemp("split")
    demo_data.write(root / "source", species=3, recordings=8, seed=0, layout="birdclef2021")
    table = next((root / "source").rglob("train_metadata.csv"))
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "fold"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "fold": ("train", "val", "test", "calibration")[number % 4]})
    config = IngestConfig(source=str(root / "source"))
    recordings.ingest(str(root / "recordings"), str(root / "audit.html"), config)
    return root / "recordings"


def run(ingested: Path, out: Path, **settings: object) -> Metrics:
    metrics = Metrics(uri=str(out / "metrics"))
    split.python_func(
        recordings=Dataset(uri=str(ingested)),
        splits=Dataset(uri=str(out / "splits")),
        leaks=HTML(uri=str(out / "leaks.html")),
        metrics=metrics,
        **settings,
    )
    return metrics


def test_every_recording_gets_one_part_and_the_report_and_figures_agree(ingested, tmp_path):
    metrics = run(ingested, tmp_path, validation_fraction=0.2, test_fraction=0.2)
    table = pd.read_parquet(tmp_path / "splits/splits.parquet")
    known = pd.read_parquet(ingested / "recordings.parquet", columns=["id"])
    assert table["id"].tolist() == sorted(known["id"])
    counts = table["part"].value_counts()
    for part, count in counts.items():
        assert metrics.metadata[f"recordings_{part}"] == count
    assert artifacts.verify(tmp_path / "splits").kind == "splits"
    assert [species["code"] for species in artifacts.read_json(tmp_path / "splits/classes.json")]
    assert "What could still leak" in (tmp_path / "leaks.html").read_text()


def test_a_column_of_the_metadata_is_taken_as_the_split(ingested, tmp_path):
    run(ingested, tmp_path, split_column="fold")
    table = pd.read_parquet(tmp_path / "splits/splits.parquet")
    assert table["part"].value_counts().to_dict() == dict.fromkeys(
        ("train", "validation", "calibration", "test"), 6
    )


def test_copies_that_the_users_own_split_puts_on_two_sides_are_refused(tmp_path):
    import numpy as np
    import soundfile

    folder = tmp_path / "birds/train_short_audio/wren"
    folder.mkdir(parents=True)
    rows = ["primary_label,filename,fold"]
    for number, fold in enumerate(("train", "validation", "test", "train")):
        noise = np.random.default_rng(number).normal(0, 0.1, 4_000)
        soundfile.write(folder / f"{number}.wav", noise, 8_000)
        rows.append(f"wren,{number}.wav,{fold}")
    for number, fold in ((8, "train"), (9, "test")):
        (folder / f"{number}.wav").write_bytes((folder / "0.wav").read_bytes())
        rows.append(f"wren,{number}.wav,{fold}")
    (tmp_path / "birds/train_metadata.csv").write_text("\n".join(rows))
    place = tmp_path / "recordings"
    config = IngestConfig(source=str(tmp_path / "birds"))
    recordings.ingest(str(place), str(tmp_path / "audit.html"), config)
    copies = pd.read_parquet(place / "duplicates.parquet")
    assert copies[["id", "copy_of"]].to_numpy().tolist() == [
        ["wren/8.wav", "wren/0.wav"],
        ["wren/9.wav", "wren/0.wav"],
    ]
    with pytest.raises(DataError, match=r"wren/0.wav \(train\) and wren/9.wav \(test\)") as caught:
        run(place, tmp_path, split_column="fold")
    assert "wren/8.wav" not in str(caught.value)
    assert not (tmp_path / "splits").exists()
    run(place, tmp_path, test_fraction=0.25, calibration_fraction=0)


def test_a_column_that_is_not_there_is_refused_and_leaves_nothing(ingested, tmp_path):
    with pytest.raises(ConfigError, match=r"no column 'partition'.*fold"):
        run(ingested, tmp_path, split_column="partition")
    assert not (tmp_path / "splits").exists()


def test_every_output_is_described():
    outputs = split.component_spec.outputs
    assert set(outputs) == {"splits", "leaks", "metrics"}
    assert all(output.description for output in outputs.values())
