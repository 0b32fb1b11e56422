"""Measures featurize against its limit and against a plain librosa loop, in one run.

    .venv/bin/python tests/bench/bench_featurize.py [--source FOLDER] [--files N] [--rounds N]

The limit is soundfile's decoding plus soxr's resampling of the same files, nothing else, on one
core. Rounds are interleaved, so that a machine that slows down slows everything; figures are
medians. CPU seconds are compared per core, wall seconds over cores.
"""

import argparse
import hashlib
import itertools
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import soundfile
import soxr

from birdsong import audio, features, recordings, splits, workers
from birdsong.config import FeatureConfig, IngestConfig, SplitConfig

CONFIG = FeatureConfig()
Timing = tuple[float, float]


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parents[2] / "../shared/data/birds_real"
    parser.add_argument("--source", default=str(default), help="a source as ingest takes it")
    parser.add_argument("--files", type=int, default=80, help="recordings of the loops per core")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; figures are medians")
    asked = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="bench-featurize-"))
    try:
        prepare(asked.source, folder)
        measure(folder, asked.files, asked.rounds)
    finally:
        shutil.rmtree(folder)


def prepare(source: str, folder: Path) -> None:
    """Ingest and split the source, outside of what is measured."""
    recordings.ingest(
        str(folder / "recordings"), str(folder / "audit.html"), IngestConfig(source=source)
    )
    splits.split(folder / "recordings", folder / "splits", folder / "leaks.html", SplitConfig())


def measure(folder: Path, file_count: int, rounds: int) -> None:
    """Measure everything in turns and print the tables."""
    import librosa
    import pyarrow.parquet as pq

    warnings.filterwarnings("ignore")
    rows = pq.read_table(folder / "recordings/recordings.parquet").to_pylist()
    step = max(1, len(rows) // file_count)
    paths = [Path(row["uri"]) for row in rows][::step]
    seconds = sum(min(row["seconds"], CONFIG.seconds) for row in rows[::step])
    all_seconds = sum(min(row["seconds"], CONFIG.seconds) for row in rows)
    librosa.load(paths[0], sr=CONFIG.sample_rate)  # its first call compiles
    by_path = {row["uri"]: row for row in rows}

    def limit() -> None:
        for path in paths:
            with soundfile.SoundFile(path) as file:
                rate = file.samplerate
                wave = file.read(round(CONFIG.seconds * rate), dtype="float32")
            soxr.resample(wave, rate, CONFIG.sample_rate, quality="HQ")

    def ours() -> None:
        for path in paths:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != by_path[str(path)]["sha256"]:
                raise RuntimeError(f"{path} changed")
            for window in audio.windows(data, CONFIG):
                window.samples.tobytes()

    def plain() -> None:
        for path in paths:
            librosa.load(path, sr=CONFIG.sample_rate, duration=CONFIG.seconds)

    cores = workers.count_cores()
    counts = [1] if cores == 1 else [1, cores]
    loops = {"limit": limit, "ours": ours, "librosa": plain}
    timings: dict[str, list[Timing]] = {}
    for round_number in range(rounds):
        for name, loop in loops.items():
            timings.setdefault(name, []).append(timed(loop))
        for count in counts:
            timings.setdefault(f"stage {count}", []).append(timed(lambda: stage(folder, count)))  # noqa: B023
        print(f"round {round_number + 1} of {rounds} done", flush=True)

    limit_cpu = median(timings["limit"], 0)
    print(f"\n{len(paths)} recordings, {seconds / 60:.1f} min of audio, one core, CPU time\n")
    print("| way | CPU s | x real time | of the limit |\n|---|---|---|---|")
    labels = {
        "limit": "soundfile + soxr, nothing else (the limit)",
        "ours": "featurize's work (hash, decode, mix, resample, 16 bits)",
        "librosa": "plain librosa.load loop",
    }
    for name, label in labels.items():
        cpu = median(timings[name], 0)
        print(f"| {label} | {cpu:.2f} | {seconds / cpu:,.0f} | {limit_cpu / cpu:.2f} |")
    print(f"\nThe whole stage, {len(rows)} recordings, {all_seconds / 60:.1f} min\n")
    print("| workers | wall s | CPU s | x real time | of the limit per CPU second | speed-up |")
    print("|---|---|---|---|---|---|")
    limit_rate = seconds / limit_cpu
    one = median(timings["stage 1"], 1)
    for count in counts:
        wall = median(timings[f"stage {count}"], 1)
        cpu = median(timings[f"stage {count}"], 0)
        print(
            f"| {count} | {wall:.2f} | {cpu:.2f} | {all_seconds / wall:,.0f} "
            f"| {all_seconds / cpu / limit_rate:.2f} | {one / wall:.2f} |"
        )
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f} on {cores} cores")
    encodings(folder)


def stage(folder: Path, count: int, config: FeatureConfig = CONFIG, out: str = "out") -> None:
    """The whole stage without its page, which does not grow with the recordings."""
    from birdsong import preview

    write_page = preview.write_page
    preview.write_page = lambda *_: None
    try:
        with open(os.devnull, "w") as null, redirect_stdout(null):  # noqa: PTH123
            features.featurize(
                folder / "recordings",
                folder / "splits",
                *(folder / out / name for name in ("development", "calibration", "test")),
                folder / out / "preview.html",
                config,
                count,
            )
    finally:
        preview.write_page = write_page


def encodings(folder: Path) -> None:
    """PCM against FLAC: bytes on disk, and windows per second read at random."""
    print("\n| encoding | MB | GB per 62,874 recordings of 60 s | windows/s, random | write s |")
    print("|---|---|---|---|---|")
    sets = {}
    written = {}
    for encoding in ("pcm", "flac"):
        config = FeatureConfig(encoding=encoding)
        written[encoding] = timed(lambda: stage(folder, 1, config, encoding))[0]  # noqa: B023
        sets[encoding] = features.FeatureSet(folder / encoding / "development")
        sets[encoding].waveform(0)
    order = np.random.default_rng(0).integers(0, len(sets["pcm"]), 300).tolist()
    speeds: dict[str, list[float]] = {"pcm": [], "flac": []}
    for _, encoding in itertools.product(range(3), sets):
        found = sets[encoding]
        started = time.perf_counter()
        for row in order:
            found.waveform(row).astype(np.float32)  # touches every sample, as training does
        speeds[encoding].append(len(order) / (time.perf_counter() - started))
    for encoding, found in sets.items():
        size = int(found.index["size"].sum())
        whole = size / int(found.index["samples"].sum()) * 60 * CONFIG.sample_rate * 62_874
        print(
            f"| {encoding} | {size / 1e6:.1f} | {whole / 1e9:.0f} "
            f"| {statistics.median(speeds[encoding]):,.0f} | {written[encoding]:.2f} |"
        )


def timed(loop: Callable[[], None]) -> Timing:
    """CPU seconds of this process and of its workers, and wall seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    loop()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def cpu_seconds() -> float:
    """CPU time so far, with child processes that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def median(values: list[Timing], which: int) -> float:
    """Median of CPU (0) or wall (1) seconds."""
    return statistics.median(value[which] for value in values)


if __name__ == "__main__":
    main()
