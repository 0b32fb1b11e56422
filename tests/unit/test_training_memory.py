"""What training holds in memory does not depend on how much audio there is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from made_features import RATE, Take, write_features

from birdsong.features import FeatureSet

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
FEW, MANY = 300, 30_000

READ_A_WHILE = """
import itertools, json, re, sys
from birdsong.ahead import read_ahead
from birdsong.features import FeatureSet
from birdsong.training_data import BATCHES_AHEAD, TrainingWindows

windows = TrainingWindows(FeatureSet(sys.argv[1]), 110_250, 0.5, 0, background=0.5)
read = 0
for batch in itertools.islice(read_ahead(windows.epoch(1, 16), BATCHES_AHEAD), 12):
    read += int(batch.samples.sum()) * 2
with open("/proc/self/status") as file:
    held = int(re.search(r"RssAnon:\\s+(\\d+) kB", file.read())[1]) * 1024
print(json.dumps([held, read, len(windows)]))
"""


def repeat(features: FeatureSet, count: int) -> None:
    """Let the index name the same stored windows again and again, each as a recording."""
    index = features.index
    rows = index.iloc[np.arange(count) % len(index)].copy()
    rows["id"] = [f"{number}.ogg" for number in range(count)]
    rows["secondary"] = [["s1"] if number % 3 else [] for number in range(count)]
    rows.to_parquet(features.path / "index.parquet")


def held_while_reading(place: Path, count: int) -> tuple[int, int]:
    """Bytes that are not file cache, and windows, of a process that reads some batches."""
    codes = [f"s{number}" for number in range(40)]
    wave = np.random.default_rng(0).integers(-9000, 9000, SECONDS * RATE).astype(np.int16)
    wave[: SECONDS * RATE // 2] //= 20
    takes = [Take(code, [wave], part="train") for code in codes]
    features = write_features(place, codes, takes)
    repeat(features, count)
    done = subprocess.run(
        [sys.executable, "-c", READ_A_WHILE, str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    held, read, windows = json.loads(done.stdout.splitlines()[-1])
    assert read == 12 * 16 * SECONDS * RATE * 2
    assert windows == count
    return held, windows


def test_a_hundred_times_the_audio_takes_no_more_memory_than_its_index(tmp_path: Path) -> None:
    few, _ = held_while_reading(tmp_path / "few", FEW)
    many, _ = held_while_reading(tmp_path / "many", MANY)
    audio = MANY * SECONDS * RATE * 2
    # 79 GB of windows in a process of a few hundred MB: nothing of the audio stays.
    assert many < audio / 50
    # A row of the index may stay: its names, numbers and labels.
    assert (many - few) / (MANY - FEW) < 2_000
