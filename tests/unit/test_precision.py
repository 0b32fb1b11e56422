"""Mixed precision trains as float32 does, and what is served does not know of it."""

from pathlib import Path

import numpy as np
import pytest
from made_features import Take, song, write_features

from birdsong import artifacts, training
from birdsong.config import FRONT_ENDS, Hyperparameters, TrainConfig
from birdsong.features import FeatureSet
from birdsong.model import build_network, whole_model
from birdsong.scoring import Scorer
from birdsong.tensorflow_setup import tf
from birdsong.trainer import Trainer, as_tensors
from birdsong.training_data import TrainingWindows

CODES = ["low", "high"]
CONFIG = TrainConfig(
    backbone="tiny", weights="none", front_end="small", epochs=1, batch_size=8, seed=2
)
# Dropout draws other units in other precisions.
VALUES = Hyperparameters(learning_rate=1e-3, dropout=0.0)
FRAME = FRONT_ENDS["small"].frame_samples


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    takes = [
        Take(code, [song(hertz, 3 + n % 4, seed=n)], part="validation" if n > 5 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(8)
    ]
    return write_features(tmp_path_factory.mktemp("made") / "development", CODES, takes)


def losses(development: FeatureSet, precision: str) -> list[float]:
    config = CONFIG.model_copy(update={"precision": precision})
    trainer = Trainer(config, VALUES, CODES, 22_050, 20)
    windows = TrainingWindows(development, FRAME, 0.0, 1)
    (batch, _) = windows.epoch(1, 8)
    tensors = as_tensors(batch)
    pictures, *_ = trainer.examples(tensors, tf.constant([0, 1]))
    logits = trainer.network(pictures, training=True)
    assert (pictures.dtype, logits.dtype) == (tf.float32, tf.float32)
    inner = trainer.network.layers[1].output.dtype
    assert inner == precision.removeprefix("mixed_")
    assert {str(weight.dtype) for weight in trainer.network.weights} == {"float32"}
    return [float(trainer.step(tensors, tf.constant(number))) for number in range(6)]


def test_losses_of_mixed_precision_stay_close_to_those_of_float32(development: FeatureSet) -> None:
    exact = losses(development, "float32")
    assert exact[-1] < exact[0]
    for precision in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(losses(development, precision), exact, rtol=0.05)


def test_the_exported_graph_of_a_mixed_training_computes_in_float32(
    development: FeatureSet, tmp_path: Path
) -> None:
    with artifacts.create(tmp_path / "values", "hyperparameters", {}) as folder:
        artifacts.write_json(folder.path / "hyperparameters.json", VALUES.model_dump())
    config = CONFIG.model_copy(update={"precision": "mixed_bfloat16"})
    training.train(
        development.path, tmp_path / "values", tmp_path / "model", tmp_path / "page.html", config
    )
    frames = np.stack([song(hertz, 5, seed=9) / 32767 for hertz in (700.0, 2000.0, 5000.0)])
    scores = Scorer(tmp_path / "model").frames(frames.astype(np.float32))
    assert scores.dtype == np.float32
    of = {}
    for precision in ("float32", "mixed_bfloat16"):
        network = build_network("tiny", FRONT_ENDS["small"], 2, 0.0, precision=precision)
        network.load_weights(str(tmp_path / "model" / "weights.weights.h5"))
        of[precision] = whole_model(network, FRONT_ENDS["small"])(frames).numpy()
    np.testing.assert_allclose(scores, of["float32"], atol=1e-6)
    np.testing.assert_allclose(scores, of["mixed_bfloat16"], atol=0.03)
    assert not np.array_equal(of["float32"], of["mixed_bfloat16"])
