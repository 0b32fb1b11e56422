"""Batch prediction from a bucket, over HTTP against moto's server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_bundles
import numpy as np
import pytest
import soundfile
from made_bundles import RATE, TONES_HZ, BandScorer, tone

from birdsong import batch_reading, bundle, predict
from birdsong.predict import Rule

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    place = "http://{}:{}".format(*server.get_host_and_port())
    settings = {
        "AWS_ENDPOINT_URL": place,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="night")
    yield s3
    server.stop()


@pytest.mark.parametrize("held", [2**20, 10_000], ids=["in memory", "by the disk"])
def test_recordings_of_a_bucket_are_heard_as_those_of_a_folder(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(batch_reading, "HELD_BYTES", held)
    stages = made_bundles.write_stages(tmp_path / "run")
    bundle.write_bundle(tmp_path / "made", stages.model, stages.thresholds, stages.evaluation)
    made = bundle.read_bundle(tmp_path / "made")
    (tmp_path / "songs").mkdir()
    for number, hertz in enumerate(TONES_HZ):
        file = tmp_path / "songs" / f"{number}.flac"
        soundfile.write(file, np.tile(tone(hertz, 5.0), 15), RATE)
        bucket.upload_file(str(file), "night", f"deep/{number}.flac")
    found = {}
    for name, place in {"here": str(tmp_path / "songs"), "there": "s3://night/deep"}.items():
        out = tmp_path / name / "found.csv"
        outcome = predict.predict([place], out, made, BandScorer, Rule())
        assert outcome.problems == []
        found[name] = out.read_text().replace(place, "")
        assert [path.name for path in out.parent.iterdir()] == ["found.csv"]
    assert found["here"] == found["there"]
    assert found["here"].count("\n") == 7
