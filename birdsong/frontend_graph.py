"""The front end of `birdsong.frontend` as a layer of the network's graph."""

from typing import Any

from birdsong.config import FrontEndConfig
from birdsong.frontend import fft_length, mel_matrix, window_values
from birdsong.tensorflow_setup import keras, tf


@keras.saving.register_keras_serializable(package="birdsong")
class FrontEnd(keras.layers.Layer):  # type: ignore[misc]
    """Frames in, pictures out, each example for itself.

    Input: samples in [-1, 1], float32, shape (frames, frame_samples).
    Output: level from -1 to 1, float32, shape (frames, columns, bands, windows), the same as
    `birdsong.frontend.pictures` to 1e-5. Always in float32, also under mixed precision: levels span
    eight decades.
    """

    def __init__(self, config: FrontEndConfig | dict[str, Any], **keywords: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **keywords)
        self.config = config if isinstance(config, FrontEndConfig) else FrontEndConfig(**config)

    def call(self, frames: Any) -> Any:
        config = self.config
        columns = config.picture_shape[0]
        smallest = tf.constant(10 ** (-config.floor_db / 10), tf.float32)
        channels = []
        for window in config.windows:
            before = window // 2
            after = max(0, (columns - 1) * config.hop + window - before - config.frame_samples)
            padded = tf.pad(frames, [[0, 0], [before, after]])
            slices = tf.signal.frame(padded, window, config.hop)[:, :columns]
            spectrum = tf.signal.rfft(slices * window_values(window), [fft_length(window)])
            power = tf.math.square(tf.math.real(spectrum)) + tf.math.square(tf.math.imag(spectrum))
            bands = tf.linalg.matmul(power, tf.constant(mel_matrix(config, window)))
            channels.append(tf.math.log(tf.maximum(bands, smallest)))
        level = tf.stack(channels, axis=-1) * (20 / config.floor_db / tf.math.log(10.0))
        return tf.clip_by_value(level + 1, -1, 1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (shape[0], *self.config.picture_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": self.config.model_dump(mode="json")}
