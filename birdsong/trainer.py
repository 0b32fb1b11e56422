"""One network with its optimizer, and one step of its training on weak labels."""

import contextlib
from typing import Any

from birdsong import augment, devices, weak_labels
from birdsong.config import FRONT_ENDS, Hyperparameters, TrainConfig
from birdsong.errors import ConfigError
from birdsong.frontend_graph import FrontEnd
from birdsong.model import start_network
from birdsong.tensorflow_setup import keras, tf
from birdsong.training_data import Batch

WARM_UP_SHARE = 0.05
"""Share of all steps over which the learning rate rises from 0; then it falls along a cosine."""


class Trainer:
    """One network, its optimizer and the graph of one step.

    Args:
        config: Settings of the training.
        hyperparameters: Learning rate, augmentation and dropout.
        codes: Species in the order of the scores.
        sample_rate: Samples per second of the features.
        steps: Steps of the whole training, for the learning rate.

    Raises:
        ConfigError, StorageError: The weights do not fit or cannot be had; see `start_network`.
    """

    def __init__(
        self,
        config: TrainConfig,
        hyperparameters: Hyperparameters,
        codes: list[str],
        sample_rate: int,
        steps: int,
    ) -> None:
        front_end = FRONT_ENDS[config.front_end]
        if sample_rate != front_end.sample_rate:
            raise ConfigError(
                f"train: features have {sample_rate} samples per second, the front end "
                f"{front_end.sample_rate}. Run featurize with that sample_rate."
            )
        keras.utils.set_random_seed(config.seed)
        self.config = config
        self.hyperparameters = hyperparameters
        self.front_end_config = front_end
        self.strategy = devices.strategy(config.devices)
        with self.strategy.scope() if self.strategy else contextlib.nullcontext():
            self._build(codes, steps)
        self.front_end = FrontEnd(front_end)
        self.masks = augment.draw_masks(
            front_end.picture_shape,
            hyperparameters.time_mask,
            hyperparameters.freq_mask,
            config.seed,
        )
        # Also batch-norm's averages, dropout's seed, Adam's moments and the number of steps.
        self.variables = [*self.network.variables, *self.optimizer.variables]
        self.step = tf.function(self._step, reduce_retracing=True)
        self.score = tf.function(self._score, reduce_retracing=True)

    def _build(self, codes: list[str], steps: int) -> None:
        self.network, self.started_from = start_network(
            self.config, self.hyperparameters.dropout, codes
        )
        if self.strategy:
            devices.synchronise(self.network)
        warm_up = round(WARM_UP_SHARE * steps)
        rate = self.hyperparameters.learning_rate
        self.schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=rate / (warm_up + 1),
            decay_steps=max(1, steps - warm_up),
            warmup_target=rate,
            warmup_steps=warm_up,
        )
        self.optimizer = keras.optimizers.Adam(self.schedule)
        if self.config.precision == "mixed_float16":
            # Small gradients would be 0 in float16; steps whose scaled ones overflow are left out.
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        self.optimizer.build(self.network.trainable_variables)

    def best_frames(self, batch: Batch, seed: Any, share: augment.Share | None = None) -> Any:
        """Cut the recordings anew and take each one's frame that scores highest for its species.

        Returns:
            float32 in [-1, 1], shape (recordings, frame_samples); no gradient flows through it.
        """
        size = self.front_end_config.frame_samples
        starts = augment.random_starts(batch.samples, size, seed, share)
        frames, owner = weak_labels.cut_frames(batch.waveforms, batch.samples, starts, size)
        logits = self.network(self.front_end(frames), training=False)
        own = tf.gather(logits, tf.gather(batch.primary, owner), batch_dims=1)
        best = weak_labels.best_frames(own, owner, tf.shape(batch.samples)[0])
        return tf.stop_gradient(tf.gather(frames, best))

    def recordings(self, batch: Batch, seed: Any, share: augment.Share | None) -> tuple[Any, Any]:
        """The best frames with all that is done to waveforms, and their labels."""
        # The first five are those of `examples`.
        seeds, config = tf.random.split(seed, 8), self.config
        frames, labels = self.best_frames(batch, seeds[0], share), batch.labels
        partners = tf.where(batch.paired[:, tf.newaxis], waves(batch.partners), frames)
        frames = augment.mix(frames, partners, seeds[1], share)
        if config.mixup:
            everyone = devices.gathered(share, frames), devices.gathered(share, labels)
            frames, labels = augment.mixup(frames, labels, *everyone, config.mixup, seeds[5], share)
        if config.background:
            noise = waves(batch.backgrounds)
            frames = augment.add_background(frames, noise, batch.noisy, seeds[6], share)
        if config.gain_db:
            frames = augment.lower_gain(frames, config.gain_db, seeds[7], share)
        return frames, labels

    def examples(
        self, batch: Batch, seed: Any, share: augment.Share | None = None
    ) -> tuple[Any, Any, Any]:
        """Augmented pictures of the best frames and of frames without a bird, with their labels
        and weights."""
        seeds = tf.random.split(seed, 5)
        config = self.front_end_config
        frames, labels = self.recordings(batch, seed, share)
        recordings = tf.cast(share.total if share else tf.shape(frames)[0], tf.float32)
        count = tf.cast(tf.math.ceil(augment.NO_CALL_SHARE * recordings), tf.int32)
        made, all_made = devices.of_pictures(share, count)
        silent = augment.no_calls(count, config.frame_samples, config.sample_rate, seeds[2], made)
        pictures = self.front_end(tf.concat([frames, silent], axis=0))
        pictures = augment.raise_floor(pictures, self.hyperparameters.reduce_db, seeds[3], all_made)
        pictures = augment.mask(pictures, self.masks, seeds[4], all_made)
        absent = tf.zeros([tf.shape(silent)[0], tf.shape(labels)[1]], labels.dtype)
        weights = tf.concat([batch.weights, tf.ones([tf.shape(silent)[0]])], axis=0)
        return pictures, tf.concat([labels, absent], axis=0), weights

    def place(self, batch: Batch) -> Any:
        """A batch of NumPy arrays as `step` takes it: tensors, on several devices shared out."""
        return devices.share_out(self.strategy, batch) if self.strategy else as_tensors(batch)

    def _step(self, batch: Any, number: Any) -> Any:
        if self.strategy is None:
            return self._step_of_one(batch, None, number)
        losses = self.strategy.run(self._step_of_one, (*batch, number))
        return self.strategy.reduce("SUM", losses, axis=None)

    def _step_of_one(self, batch: Batch, share: augment.Share | None, number: Any) -> Any:
        seed = tf.stack([tf.constant(self.config.seed % 2**31, tf.int32), number])
        pictures, labels, weights = self.examples(batch, seed, share)
        with tf.GradientTape() as tape:
            logits = self.network(pictures, training=True)
            loss = weak_labels.crossentropy_modified(
                labels, logits, self.config.pos_weight, self.config.label_smoothing, weights
            )
            if share:
                loss = devices.part_of_mean(loss, labels, weights)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.network.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss

    def _score(self, waveforms: Any, samples: Any) -> Any:
        size = self.front_end_config.frame_samples
        frames, owner = weak_labels.cut_frames(waveforms, samples, tf.zeros_like(samples), size)
        logits = self.network(self.front_end(frames), training=False)
        return weak_labels.recording_scores(logits, owner, tf.shape(samples)[0])


def waves(samples: Any) -> Any:
    """Stored samples as float32 in [-1, 1]."""
    return tf.cast(samples, tf.float32) * (1 / weak_labels.FULL_SCALE)


def as_tensors(batch: Batch) -> Batch:
    """A batch of NumPy arrays as one of tensors."""
    return Batch(*(tf.convert_to_tensor(array) for array in batch))
