"""The network: pictures to logits, its weights, and the whole from waveforms to scores."""

import contextlib
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from birdsong.artifacts import file_sha256, read_json, read_spec
from birdsong.config import FRONT_ENDS, FrontEndConfig, TrainConfig
from birdsong.errors import ConfigError, DataError, StorageError
from birdsong.frontend_graph import FrontEnd
from birdsong.tensorflow_setup import keras, tf

HEAD = "head"
"""Name of the layer that turns features into one logit for each species."""

SMALLEST_PICTURE = {"inception_v3": 75, "mobilenet_v3_small": 32, "efficientnet_v2_b0": 32}
"""Fewest columns and bands that a backbone takes."""


MOMENTUM = 0.9
"""Of the tiny network's moving averages: small data have too few steps for Keras' 0.99."""


def build_network(
    backbone: str,
    front_end: FrontEndConfig,
    species_count: int,
    dropout: float,
    imagenet: bool = False,
    precision: str = "float32",
) -> Any:
    """Build the trained part: pictures in, logits out.

    Args:
        backbone: A name of `TrainConfig.backbone`.
        front_end: Makes the pictures; gives their shape.
        species_count: Species, at least 1.
        dropout: Share of the pooled features that training leaves out.
        imagenet: Start from the weights that Keras offers, fetched over the network.
        precision: A name of `TrainConfig.precision`: what the layers compute in. Their weights are
            float32, and so are the pictures and the logits.

    Returns:
        keras.Model from float32 (pictures, columns, bands, channels) in [-1, 1] to float32
        (pictures, species).

    Raises:
        ConfigError: The pictures are too small for the backbone, or it has no ImageNet weights.
        StorageError: ImageNet weights cannot be fetched.
    """
    shape = front_end.picture_shape
    smallest = SMALLEST_PICTURE.get(backbone, 0)
    if min(shape[:2]) < smallest:
        raise ConfigError(
            f"backbone {backbone} needs pictures of at least {smallest} x {smallest}, this front "
            f"end makes {shape[0]} x {shape[1]}. Set front_end=full, or another backbone."
        )
    pictures = keras.Input(shape, name="pictures")
    with _computing_in(precision):
        features = _backbone(backbone, shape, imagenet)(pictures)
        features = keras.layers.Dropout(dropout, name="dropout")(features)
    # A score starts near the share of positives instead of at 0.5.
    bias = keras.initializers.Constant(-math.log(max(species_count - 1, 1)))
    logits = keras.layers.Dense(species_count, name=HEAD, dtype="float32", bias_initializer=bias)(
        features
    )
    return keras.Model(pictures, logits, name="network")


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    # Keras' own backbones take no policy of their own.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(network: Any, config: TrainConfig, species_count: int) -> Any:
    """The same network computing in float32, as it is served: any processor can, at full speed."""
    if config.precision == "float32":
        return network
    plain = build_network(config.backbone, FRONT_ENDS[config.front_end], species_count, 0.0)
    plain.set_weights(network.get_weights())
    return plain


def backbone_of(network: Any) -> Any:
    """The part of a network between the pictures and the dropout before the head."""
    return network.layers[1]


def whole_model(network: Any, front_end: FrontEndConfig) -> Any:
    """Put the front end before a network and the sigmoid behind it: waveforms in, scores out.

    Returns:
        keras.Model from float32 (frames, frame_samples) in [-1, 1] to float32 (frames, species) in
        [0, 1]; it shares the network's weights.
    """
    frames = keras.Input((front_end.frame_samples,), name="frames")
    logits = network(FrontEnd(front_end, name="front_end")(frames))
    scores = keras.layers.Activation("sigmoid", name="scores", dtype="float32")(logits)
    return keras.Model(frames, scores, name="birdsong")


def export(network: Any, front_end: FrontEndConfig, folder: Path) -> None:
    """Write a SavedModel whose signature `serve` takes frames and gives scores."""
    model = whole_model(network, front_end)

    def serve(frames: Any) -> Any:
        return model(frames, training=False)

    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec([None, front_end.frame_samples], tf.float32, name="frames")]
    archive.add_endpoint("serve", serve, input_signature=signature)
    archive.write_out(str(folder), verbose=False)


def start_network(config: TrainConfig, dropout: float, codes: list[str]) -> tuple[Any, str]:
    """Build the network with the weights that training starts from.

    Args:
        config: Backbone, front end, weights and their SHA-256.
        dropout: Dropout before the head.
        codes: Species in the order of the scores.

    Returns:
        The network, and a sentence on where its weights come from.

    Raises:
        ConfigError: The weights do not fit the settings, have another SHA-256, or do not exist.
        StorageError: The weights cannot be fetched.
    """
    front_end = FRONT_ENDS[config.front_end]
    imagenet = config.weights == "imagenet"
    network = build_network(
        config.backbone, front_end, len(codes), dropout, imagenet, config.precision
    )
    if imagenet:
        return network, "The backbone starts from Keras' ImageNet weights."
    if config.weights == "none":
        return network, "The weights start at random."
    if config.weights.startswith("models:/"):
        return network, _from_model(network, _registered(config), config, codes)
    if "://" in config.weights:
        from birdsong import storage

        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / Path(config.weights).name
            storage.fetch(config.weights, place, config.weights_sha256 or None)
            return network, _from_file(network, place, config)
    place = Path(config.weights).expanduser()
    if place.is_dir():
        return network, _from_model(network, place, config, codes)
    if not place.exists():
        raise ConfigError(
            f"weights: {config.weights} does not exist. Give imagenet, none, a .h5 file or its "
            "URI, a model folder of train, or models:/NAME/VERSION."
        )
    if config.weights_sha256 and file_sha256(place) != config.weights_sha256:
        raise ConfigError(
            f"weights: {config.weights} has SHA-256 {file_sha256(place)}, expected "
            f"{config.weights_sha256}. Get the file again, or correct weights_sha256."
        )
    return network, _from_file(network, place, config)


def _backbone(name: str, shape: tuple[int, int, int], imagenet: bool) -> Any:
    if name == "tiny":
        if imagenet:
            raise ConfigError(
                "backbone tiny has no ImageNet weights. Set weights=none, or another backbone."
            )
        return _tiny(shape)
    makers = {
        "mobilenet_v3_small": (
            keras.applications.MobileNetV3Small,
            {"include_preprocessing": False},
        ),
        "efficientnet_v2_b0": (
            keras.applications.EfficientNetV2B0,
            {"include_preprocessing": False},
        ),
        "inception_v3": (keras.applications.InceptionV3, {}),
    }
    make, more = makers[name]
    try:
        return make(
            include_top=False,
            weights="imagenet" if imagenet else None,
            input_shape=shape,
            pooling="avg",
            **more,
        )
    except Exception as error:
        # Keras raises a plain Exception for a failed download.
        if not imagenet:
            raise
        raise StorageError(
            f"ImageNet weights of {name} cannot be fetched ({error}). Without a network give "
            "a file: set weights to the path or URI of Keras' weights without top (.h5) and "
            "weights_sha256 to its SHA-256; or set weights=none."
        ) from error


def _tiny(shape: tuple[int, int, int]) -> Any:
    """A small network for small pictures: each band normalised, four blocks, pooled over time."""
    layers = keras.layers
    columns, bands, channels = shape
    pictures = keras.Input(shape)
    # Each band of each channel has its own level: rumble and hiss of a place stand in few bands.
    x = layers.Reshape((columns, bands * channels))(pictures)
    x = layers.BatchNormalization(momentum=MOMENTUM, name="bands")(x)
    x = layers.Reshape(shape)(x)
    for number, filters in enumerate((24, 48, 96, 128)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"norm{number}")(x)
        x = layers.Activation("relu")(x)
        x = layers.MaxPooling2D(2, padding="same")(x)
    # Where in frequency matters, where in time does not: bands stay apart until time is pooled.
    x = layers.Permute((2, 1, 3))(x)
    x = layers.Concatenate()([_over_time(x, "max"), _over_time(x, "mean")])
    x = layers.Flatten()(x)
    x = layers.Dense(128, use_bias=False, name="features")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name="norm_features")(x)
    x = layers.Activation("relu")(x)
    return keras.Model(pictures, x, name="tiny")


def _over_time(x: Any, kind: str) -> Any:
    steps = x.shape[2]
    pool = keras.layers.MaxPooling2D if kind == "max" else keras.layers.AveragePooling2D
    return pool((1, steps))(x)


def _registered(config: TrainConfig) -> Path:
    """The model folder of a registered version, `models:/NAME/VERSION`."""
    parts = config.weights.removeprefix("models:/").split("/")
    if len(parts) != 2 or not all(parts):
        raise ConfigError(
            f"weights: got {config.weights!r}, expected models:/NAME/VERSION, "
            "as models:/birdsong/3."
        )
    from birdsong.registry import fetch_bundle

    return Path(fetch_bundle(parts[0], parts[1], config.registry)) / "model"


def _from_model(network: Any, folder: Path, config: TrainConfig, codes: list[str]) -> str:
    """Take over the weights of a model artifact; the head only for the same species."""
    try:
        read_spec(folder, "model")
        settings = read_json(folder / "model.json")
        known = [species["code"] for species in read_json(folder / "classes.json")]
        then = TrainConfig(**settings["train"])
        front_end = FrontEndConfig(**settings["front_end"])
    except (DataError, KeyError, TypeError) as error:
        raise ConfigError(
            f"weights: {config.weights} is not a model of this train ({error})."
        ) from error
    if then.backbone != config.backbone or front_end != FRONT_ENDS[config.front_end]:
        raise ConfigError(
            f"weights: {config.weights} has backbone {then.backbone} and front end "
            f"{then.front_end}, this training {config.backbone} and {config.front_end}. "
            "Set backbone and front_end to the model's."
        )
    earlier = build_network(then.backbone, front_end, len(known), 0.0)
    earlier.load_weights(str(folder / "weights.weights.h5"))
    if known == codes:
        network.set_weights(earlier.get_weights())
        return f"The weights start from {config.weights}."
    backbone_of(network).set_weights(backbone_of(earlier).get_weights())
    return (
        f"The backbone starts from {config.weights}; its {len(known)} species are not these "
        f"{len(codes)}, so the head starts at random."
    )


def _from_file(network: Any, file: Path, config: TrainConfig) -> str:
    """Load a weights file: of a whole network, or of the backbone alone."""
    backbone = backbone_of(network)
    attempts = [(network, "whole network"), (backbone, "backbone")]
    if not file.name.endswith(".weights.h5"):
        attempts = attempts[1:]
    problems = []
    for model, what in attempts:
        fresh = model.get_weights()
        try:
            with warnings.catch_warnings():
                # Keras only warns of some of the layers that a file has no weights for.
                warnings.filterwarnings("error", category=UserWarning)
                model.load_weights(str(file))
        except (ValueError, OSError, KeyError, UserWarning) as error:
            model.set_weights(fresh)
            problems.append(f"as the {what}: {str(error).splitlines()[0]}")
            continue
        if what == "backbone":
            return f"The backbone starts from {config.weights}, the head at random."
        return f"The whole network starts from {config.weights}; its species must be these."
    raise ConfigError(
        f"weights: {config.weights} does not fit backbone {config.backbone} with pictures of "
        f"front_end={config.front_end} ({'; '.join(problems)})."
    )
