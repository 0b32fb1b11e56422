"""The network: backbones, the whole from waveforms to scores, and where weights come from."""

import hashlib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from birdsong import artifacts
from birdsong.config import FRONT_ENDS, TrainConfig
from birdsong.errors import ConfigError, StorageError
from birdsong.model import HEAD, backbone_of, build_network, export, start_network, whole_model
from birdsong.tensorflow_setup import keras, tf

SMALL = FRONT_ENDS["small"]
CODES = ["amerob", "blkpho", "wbwwre1"]
TINY = TrainConfig(backbone="tiny", weights="none", front_end="small")


@pytest.fixture(scope="module")
def network() -> Any:
    keras.utils.set_random_seed(1)
    return build_network("tiny", SMALL, 3, 0.3)


def hard_frames() -> np.ndarray:
    random = np.random.default_rng(0)
    frames = random.uniform(-1, 1, (5, SMALL.frame_samples)).astype(np.float32)
    frames[1] = 0
    frames[2] = 0
    frames[2, 7] = 1
    frames[3] = np.sign(frames[3])
    frames[4] *= 1e-4
    return frames


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_frame_scores_the_same_alone_and_in_any_batch_and_hard_ones_are_finite(
    network: Any,
) -> None:
    model = whole_model(network, SMALL)
    frames = hard_frames()
    together = model(frames).numpy()
    assert together.shape == (5, 3)
    assert np.isfinite(together).all()
    assert np.all((together >= 0) & (together <= 1))
    for number in range(5):
        alone = model(frames[number : number + 1]).numpy()[0]
        np.testing.assert_allclose(alone, together[number], atol=1e-6)
        loud_company = model(np.concatenate([np.sign(frames[:3]), frames[number:][:1]])).numpy()[-1]
        np.testing.assert_allclose(loud_company, together[number], atol=1e-6)


def test_the_exported_graph_scores_as_the_model(network: Any, tmp_path: Path) -> None:
    export(network, SMALL, tmp_path / "saved_model")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    frames = hard_frames()
    expected = whole_model(network, SMALL)(frames).numpy()
    np.testing.assert_allclose(loaded.serve(frames).numpy(), expected, atol=1e-6)
    (by_signature,) = loaded.signatures["serve"](tf.constant(frames[:1])).values()
    np.testing.assert_allclose(by_signature.numpy(), expected[:1], atol=1e-6)


def test_a_fresh_network_scores_near_the_share_of_positives() -> None:
    network = build_network("tiny", SMALL, 40, 0.0)
    scores = whole_model(network, SMALL)(hard_frames()).numpy()
    assert 0.2 / 40 < scores.mean() < 5 / 40


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "efficientnet_v2_b0"])
def test_backbones_of_keras_take_small_pictures(backbone: str) -> None:
    network = build_network(backbone, SMALL, 2, 0.1)
    assert network(np.zeros((1, *SMALL.picture_shape), np.float32)).shape == (1, 2)


def test_inception_with_small_pictures_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="front_end=full"):
        build_network("inception_v3", SMALL, 2, 0.1)


def test_tiny_has_no_imagenet_weights_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="weights=none"):
        start_network(TINY.model_copy(update={"weights": "imagenet"}), 0.1, CODES)


def test_imagenet_offline_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    config = TrainConfig(backbone="mobilenet_v3_small", front_end="small")
    with pytest.raises(StorageError, match=r"(?s)cannot be fetched.*weights_sha256.*weights=none"):
        start_network(config, 0.1, CODES)


def test_a_weights_file_of_the_whole_network_is_taken_over(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.weights.h5"
    network.save_weights(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    config = TINY.model_copy(update={"weights": str(file), "weights_sha256": sha256})
    started, told = start_network(config, 0.3, CODES)
    assert same(started, network)
    assert "whole network" in told
    by_uri = config.model_copy(update={"weights": f"file://{file}"})
    assert same(start_network(by_uri, 0.3, CODES)[0], network)


@pytest.mark.parametrize("name", ["notop.weights.h5", "notop.h5"])
def test_a_weights_file_of_the_backbone_is_taken_over_with_a_new_head(
    network: Any, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    backbone_of(network).save_weights(
        file if name.endswith(".weights.h5") else tmp_path / "notop.weights.h5"
    )
    if not file.exists():
        # The older layout, as of the files that Keras' applications publish.
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(file, "w") as opened:
            legacy_h5_format.save_weights_to_hdf5_group(opened, backbone_of(network))
    config = TINY.model_copy(update={"weights": str(file)})
    started, told = start_network(config, 0.3, [*CODES, "another"])
    assert same(backbone_of(started), backbone_of(network))
    assert started.get_layer(HEAD).kernel.shape[-1] == 4
    assert "head at random" in told


@pytest.mark.parametrize(
    ("weights", "sha256", "message"),
    [
        ("absent.h5", "", "does not exist"),
        ("text.weights.h5", "", "does not fit"),
        ("text.weights.h5", "0" * 64, "expected 0000"),
        ("folder", "", "not a model"),
        ("models:/only-a-name", "", "models:/NAME/VERSION"),
    ],
)
def test_weights_that_cannot_be_used_say_so_before_training(
    tmp_path: Path, weights: str, sha256: str, message: str
) -> None:
    (tmp_path / "text.weights.h5").write_text("not weights")
    (tmp_path / "folder").mkdir()
    place = weights if ":" in weights else str(tmp_path / weights)
    config = TINY.model_copy(update={"weights": place, "weights_sha256": sha256})
    with pytest.raises(ConfigError, match=message):
        start_network(config, 0.3, CODES)


@pytest.fixture(scope="module")
def earlier(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model artifact of an earlier training."""
    path = tmp_path_factory.mktemp("earlier") / "model"
    with artifacts.create(path, "model", TINY) as folder:
        network.save_weights(folder.path / "weights.weights.h5")
        settings = {"train": TINY.model_dump(), "front_end": SMALL.model_dump()}
        artifacts.write_json(folder.path / "model.json", settings)
        artifacts.write_json(folder.path / "classes.json", [{"code": code} for code in CODES])
    return path


def test_training_goes_on_from_a_model_of_the_same_species(network: Any, earlier: Path) -> None:
    config = TINY.model_copy(update={"weights": str(earlier)})
    started, _ = start_network(config, 0.1, CODES)
    assert same(started, network)


def test_from_a_model_of_other_species_only_the_backbone_is_kept(
    network: Any, earlier: Path
) -> None:
    config = TINY.model_copy(update={"weights": str(earlier)})
    started, told = start_network(config, 0.1, CODES[::-1])
    assert same(backbone_of(started), backbone_of(network))
    assert not same(started.get_layer(HEAD), network.get_layer(HEAD))
    assert "head starts at random" in told


def test_a_registered_version_is_looked_up_in_the_registry(
    network: Any, earlier: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fetch(name: str, version: str, registry: str) -> Path:
        asked.append((name, version, registry))
        return tmp_path

    (tmp_path / "model").symlink_to(earlier)
    monkeypatch.setattr("birdsong.registry.fetch_bundle", fetch)
    config = TINY.model_copy(update={"weights": "models:/wren/2", "registry": "sqlite:///r.db"})
    assert same(start_network(config, 0.1, CODES)[0], network)
    assert asked == [("wren", "2", "sqlite:///r.db")]


def test_a_model_with_another_backbone_is_refused(earlier: Path) -> None:
    config = TrainConfig(backbone="mobilenet_v3_small", weights=str(earlier), front_end="small")
    with pytest.raises(ConfigError, match="backbone tiny"):
        start_network(config, 0.1, CODES)
