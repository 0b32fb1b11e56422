"""Small outputs of featurize and train, for tests of the evaluation."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birdsong import artifacts, audio, baseline, shards
from birdsong.config import FRONT_ENDS, FeatureConfig
from birdsong.features import FeatureSet

RATE = 22_050


@dataclass(frozen=True)
class Take:
    """One recording of one or more windows.

    Attributes:
        label, secondary, group, part, rating: As in the index.
        windows: int16 samples of each.
    """

    label: str
    windows: Sequence[np.ndarray]
    secondary: tuple[str, ...] = ()
    group: str = ""
    part: str = "test"
    rating: float | None = None


def song(hertz: float, seconds: float, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """A tone over noise as a stored window, int16."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * hertz * time)
    wave += noise * np.random.default_rng(seed).standard_normal(len(time))
    return np.rint(wave * audio.FULL_SCALE / np.abs(wave).max()).astype(np.int16)


def write_features(path: Path, codes: Sequence[str], takes: Sequence[Take]) -> FeatureSet:
    """Write a features artifact."""
    config = FeatureConfig()
    with artifacts.create(path, "features", config) as folder:
        writer = shards.ShardWriter(folder, config)
        for number, take in enumerate(takes):
            blobs = [shards.encode(window, config) for window in take.windows]
            writer.add(
                {
                    "id": f"{take.label}/{number:03d}.ogg",
                    "sha256": hashlib.sha256(b"".join(blobs) + bytes([number % 256])).hexdigest(),
                    "label": take.label,
                    "secondary": list(take.secondary),
                    "part": take.part,
                    "group": take.group or f"group {number}",
                    "rating": take.rating,
                },
                [
                    (60.0 * place, len(window), len(blob))
                    for place, (window, blob) in enumerate(zip(take.windows, blobs, strict=True))
                ],
                b"".join(blobs),
            )
        writer.finish(
            [
                {"code": code, "scientific_name": f"Avis {code}", "common_name": f"Bird {code}"}
                for code in codes
            ]
        )
    return FeatureSet(path)


def write_untrained_model(path: Path, codes: Sequence[str]) -> Path:
    """A model artifact with the real tiny network at its random start, and no baseline."""
    from birdsong.model import export

    network = untrained_network(codes)
    return write_model(path, codes, lambda folder: export(network, FRONT_ENDS["small"], folder))


def exported_model(
    path: Path, codes: Sequence[str], plain: baseline.Baseline | None = None
) -> Path:
    """The same for every runtime, each of them admitted that runs here."""
    from birdsong.config import RuntimeConfig
    from birdsong.model import export
    from birdsong.runtimes import export as runtime_export

    network = untrained_network(codes)
    takes = [
        Take(
            codes[n % len(codes)], [song(500 + 150 * n, 7, seed=n, noise=0.05 * 1.3**n)], part=part
        )
        for part, count in (("train", 24), ("validation", 2))
        for n in range(count)
    ]
    development = write_features(path.parent / "development", codes, takes)

    def write(folder: Path) -> None:
        export(network, FRONT_ENDS["small"], folder)
        config = RuntimeConfig(runtime_agreement=0, runtime_accuracy_points=100)
        runtime_export.export_and_compare(
            folder.parent, network, FRONT_ENDS["small"], development, config, 0
        )

    return write_model(path, codes, write, plain)


def untrained_network(codes: Sequence[str]) -> Any:
    """The tiny network at its random start, with scores that differ."""
    from birdsong.model import build_network
    from birdsong.tensorflow_setup import keras

    keras.utils.set_random_seed(0)
    network = build_network("tiny", FRONT_ENDS["small"], len(codes), 0.0)
    # At its start the head is so weak that all scores are alike; tests want them to differ.
    head = network.layers[-1]
    kernel, bias = head.get_weights()
    head.set_weights([kernel * 20, bias * 0])
    return network


def write_model(
    path: Path,
    codes: Sequence[str],
    write_graph: Callable[[Path], None],
    plain: baseline.Baseline | None = None,
) -> Path:
    """A model artifact around a graph that `write_graph` writes into a folder."""
    with artifacts.create(path, "model", {}) as folder:
        artifacts.write_json(
            folder.path / "model.json",
            {
                "features": FeatureConfig().model_dump(mode="json"),
                "front_end": FRONT_ENDS["small"].model_dump(mode="json"),
            },
        )
        artifacts.write_json(
            folder.path / "classes.json",
            [{"code": code, "scientific_name": "", "common_name": ""} for code in codes],
        )
        write_graph(folder.path / "saved_model")
        if plain is not None:
            plain.save(folder.path)
    return path
