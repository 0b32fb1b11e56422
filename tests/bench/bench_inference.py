"""Measures what a minute of a recording costs, step by step and runtime by runtime.

    .venv/bin/python tests/bench/bench_inference.py [--keep FOLDER] [--rounds N]

The network is InceptionV3 behind the reference's front end (299 x 299 x 3), with random weights:
speed does not depend on them. The recording is 60 s of 32 kHz OGG. Rounds are interleaved, so that
other work on the machine hits all alike; figures are medians, and ratios are medians of the ratios
within a round, of time on the clock and of time on the CPU, which other work on the machine spoils
less. The last table starts the real server on a bundle with that network.
"""

import argparse
import http.client
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import soundfile

from birdsong import artifacts, audio, bundle, deployment, frontend, runtimes
from birdsong.config import FRONT_ENDS, FeatureConfig
from birdsong.scoring import Scorer

SPECIES = 397
CODES = [f"bird{number:03d}" for number in range(SPECIES)]
RATE = 32_000


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder where the made bundle is kept")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        place = asked.keep or Path(aside)
        if not (place / "bundle").is_dir():
            make_bundle(place)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        steps(place / "bundle", asked.rounds)
        servers(place / "bundle")


def recording() -> bytes:
    """A minute of chirps over noise, as OGG."""
    time_axis = np.arange(60 * RATE) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (2000 + 1500 * np.sin(2 * np.pi * time_axis)) * time_axis)
    wave *= np.sin(2 * np.pi * 0.7 * time_axis) > 0
    wave += np.random.default_rng(0).normal(0, 0.05, len(wave))
    made = io.BytesIO()
    soundfile.write(made, wave, RATE, format="OGG", subtype="VORBIS")
    return made.getvalue()


def frames_of(data: bytes) -> np.ndarray:
    """Decoded and cut, as everything that scores does it."""
    (window,) = audio.windows(data, FeatureConfig())
    return audio.frames(window.samples, FeatureConfig())


def steps(place: Path, rounds: int) -> None:
    """Decode, front end, the network in each runtime, and bytes to scores, in one warm process."""
    from birdsong.frontend_graph import FrontEnd
    from birdsong.model import build_network
    from birdsong.tensorflow_setup import tf

    data, config = recording(), FRONT_ENDS["full"]
    frames = frames_of(data)
    pictures = frontend.pictures(frames, config)
    network = build_network("inception_v3", config, SPECIES, 0.0)
    network.load_weights(str(place / "model/weights.weights.h5"))
    graphs = {
        "front end, TensorFlow's graph": (tf.function(FrontEnd(config)), tf.constant(frames)),
        "network, tensorflow": (
            tf.function(lambda taken: network(taken, training=False)),
            tf.constant(pictures),
        ),
    }
    work: dict[str, Callable[[], Any]] = {
        "decode, resample, cut": lambda: frames_of(data),
        "front end, NumPy": lambda: frontend.pictures(frames, config),
    }
    work |= {
        name: (lambda run=run, taken=taken: run(taken).numpy())
        for name, (run, taken) in graphs.items()
    }
    logits = {}
    for name in ("onnx", "openvino-fp32", "openvino-bf16", "openvino-int8"):
        if reason := runtimes.lacking(name):
            print(f"{name}: {reason}")
            continue
        load = runtimes.load(place / "model", name)
        logits[name] = load(pictures)
        work[f"network, {name}"] = lambda load=load: load(pictures)
    scorers = {name: Scorer(place / "model", name) for name in [*logits, "tensorflow"]}
    work |= {
        f"bytes to scores, {name}": (lambda scorer=scorer: scorer.frames(frames_of(data)))
        for name, scorer in scorers.items()
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, call in work.items():
            began, busy = time.perf_counter(), time.process_time()
            call()
            if number:  # the first round warms up
                spent = time.process_time() - busy
                seconds[name].append((time.perf_counter() - began, spent))
    print(
        f"\n| 60 s of sound, medians of {rounds} rounds | ms | CPU ms | times TensorFlow's speed "
        "| by CPU |\n|---|---|---|---|---|"
    )
    for name, taken in seconds.items():
        kind = name.partition(",")[0]
        against = {
            "front end": "front end, TensorFlow's graph",
            "network": "network, tensorflow",
            "bytes to scores": "bytes to scores, tensorflow",
        }.get(kind)
        pairs = list(zip(seconds[against], taken, strict=True)) if against else []
        ratios = (
            [f"{statistics.median(a[n] / b[n] for a, b in pairs):.1f}" for n in (0, 1)]
            if against
            else ["", ""]
        )
        spent = [f"{1000 * statistics.median(one[n] for one in taken):.0f}" for n in (0, 1)]
        print(f"| {name} | {' | '.join(spent)} | {' | '.join(ratios)} |", flush=True)
    reference = work["network, tensorflow"]()
    for name, found in logits.items():
        off = np.abs(found - reference).max() / np.abs(reference).max()
        print(f"largest error of a logit, {name}: {100 * off:.2g} % of the largest one")


def servers(place: Path) -> None:
    """From the start of the server's process to its first answer, and the memory it took."""
    data = recording()
    print(
        "\n| server | first answer after, s | p50 of 9 answers, ms | most memory, MiB |\n"
        "|---|---|---|---|"
    )
    cache = {**os.environ}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for name in ("openvino-int8", "openvino-bf16", "openvino-fp32", "onnx", "auto", "auto"):
            if name != "auto" and runtimes.lacking(name):
                continue
            shown = (
                name
                if name != "auto"
                else f"auto, start {1 + len(list(Path(folder).rglob('*.json')))}"
            )
            began = time.perf_counter()
            with deployment.local_server(place, "1", 120, name) as server:
                taken, answers = [], []
                for _ in range(10):
                    asked = time.perf_counter()
                    answers.append(ask(server.port, data))
                    taken.append(time.perf_counter() - asked)
                    if len(taken) == 1:
                        first = time.perf_counter() - began
                memory = most_memory(server.process.pid)
            print(
                f"| {shown}: {answers[0]['runtime']} | {first:.2f} | "
                f"{1000 * statistics.median(taken[1:]):.0f} | {memory:.0f} |"
            )
    os.environ.clear()
    os.environ.update(cache)


def ask(port: int, data: bytes) -> dict[str, Any]:
    """POST a recording."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/invocations", data, {"Content-Type": "audio/ogg"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def most_memory(pid: int) -> float:
    """Most resident memory of the server, and what its children hold now beside it, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    children = psutil.Process(pid).children(recursive=True)
    own = sum(child.memory_full_info().uss for child in children)
    return peak / 1024 + own / 2**20


def make_bundle(place: Path) -> None:
    """A bundle with the network of the reference, random weights, and every runtime admitted."""
    import sys

    from birdsong.config import RuntimeConfig
    from birdsong.features import FeatureSet
    from birdsong.model import build_network, export
    from birdsong.runtimes.export import export_and_compare
    from birdsong.tensorflow_setup import keras

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from made_features import Take, song, write_features

    print("making the bundle: a minute or two", flush=True)
    keras.utils.set_random_seed(0)
    config = FRONT_ENDS["full"]
    network = build_network("inception_v3", config, SPECIES, 0.0)
    takes = [
        Take(CODES[number], [song(400 + 40 * number, 5, seed=number, noise=0.3)], part=part)
        for part, count in (("train", 100), ("validation", 4))
        for number in range(count)
    ]
    features: FeatureSet = write_features(place / "development", CODES, takes)
    with artifacts.create(place / "model", "model", {}) as made:
        network.save_weights(str(made.path / "weights.weights.h5"))
        export(network, config, made.path / "saved_model")
        settings = {
            "features": FeatureConfig().model_dump(mode="json"),
            "front_end": config.model_dump(mode="json"),
            "train": {"backbone": "inception_v3", "weights": "none", "front_end": "full"},
        }
        artifacts.write_json(made.path / "model.json", settings)
        artifacts.write_json(made.path / "classes.json", [{"code": code} for code in CODES])
        export_and_compare(
            made.path,
            network,
            config,
            features,
            RuntimeConfig(runtime_agreement=0, runtime_accuracy_points=100),
            0,
        )
    names = [name for name in runtimes.admitted(place / "model") if name != runtimes.REFERENCE]
    inputs = {"model": place / "model"}
    chosen = {"species": {code: {"threshold": 0.5} for code in CODES}}
    plain = {"method": "identity", "temperature": 1.0}
    with artifacts.create(place / "thresholds", "thresholds", {}, inputs) as made:
        for folder in (made.path, *(made.path / "runtimes" / name for name in names)):
            folder.mkdir(parents=True, exist_ok=True)
            artifacts.write_json(folder / "thresholds.json", chosen)
            artifacts.write_json(folder / "calibration.json", plain)
    samples = song(2000, 12, noise=0.3)
    scores = {name: Scorer(place / "model", name).window(samples).tolist() for name in names}
    with artifacts.create(place / "evaluation", "evaluation", {}, inputs) as made:
        artifacts.write_json(made.path / "metrics.json", {})
        pd.DataFrame({"id": ["a"]}).to_parquet(made.path / "test_scores.parquet")
        table = {name: {"admitted": True} for name in (runtimes.REFERENCE, *names)}
        artifacts.write_json(made.path / runtimes.TABLE, {"runtimes": table})
        (made.path / "golden").mkdir()
        (made.path / "golden/0.flac").write_bytes(audio.encode_flac(samples, 22_050))
        entry = {"file": "0.flac", "label": CODES[0], "runtimes": scores}
        entry["scores"] = scores[names[0]]
        artifacts.write_json(made.path / "golden/golden.json", [entry])
    bundle.write_bundle(
        place / "bundle", place / "model", place / "thresholds", place / "evaluation"
    )


if __name__ == "__main__":
    main()
