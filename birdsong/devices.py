"""Several devices of one host that share each training step."""

import platform
from typing import Any

import numpy as np

from birdsong.augment import Share
from birdsong.errors import ConfigError
from birdsong.tensorflow_setup import keras, tf
from birdsong.training_data import Batch
from birdsong.weak_labels import known_weights
from birdsong.workers import count_cores


def strategy(count: int) -> Any:
    """What spreads a step over devices: the first GPUs, or processors where there are none.

    Args:
        count: Devices.

    Returns:
        tf.distribute.MirroredStrategy; None for one device.

    Raises:
        ConfigError: There are fewer devices.
    """
    if count == 1:
        return None
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    if len(names) < count:
        raise ConfigError(
            f"devices: got {count}, this machine has {len(names)} {kind}. "
            f"Set devices to {len(names)} or less."
        )
    return tf.distribute.MirroredStrategy(names[:count])


def described(count: int) -> str:
    """The machine and what of it computes, in words.

    Args:
        count: Devices that share a step.

    Returns:
        As "x86_64, 16 cores, NVIDIA A10G", or without a GPU "x86_64, 2 cores, no GPU".
    """
    names = [
        str(tf.config.experimental.get_device_details(gpu).get("device_name") or "GPU")
        for gpu in tf.config.list_physical_devices("GPU")[:count]
    ]
    computing = f"{len(names)} x {names[0]}" if len(names) > 1 else (names or ["no GPU"])[0]
    cores = count_cores()
    return f"{platform.machine()}, {cores} core{'s' * (cores != 1)}, {computing}"


def synchronise(network: Any) -> None:
    """Let batch normalisation see the whole batch, not the share of one device."""
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def share_out(spread: Any, batch: Batch) -> tuple[Batch, Share]:
    """Give each device its share of a batch, as even as can be.

    Args:
        spread: What `strategy` gave.
        batch: At least one recording for each device.

    Returns:
        The batch and its share with a value for each device in every field.

    Raises:
        ConfigError: There are fewer recordings than devices.
    """
    count, total = spread.num_replicas_in_sync, len(batch.samples)
    if total < count:
        raise ConfigError(
            f"devices: {count} devices cannot share a batch of {total} recordings. "
            "Raise batch_size, or lower devices."
        )
    rows = np.array_split(np.arange(total, dtype=np.int32), count)

    def spread_values(values: list[Any]) -> Any:
        return spread.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(values[context.replica_id_in_sync_group])
        )

    shared = Batch(*(spread_values([field[own] for own in rows]) for field in batch))
    return shared, Share(spread_values(rows), spread_values([np.int32(total)] * count))


def of_pictures(recordings: Share | None, no_calls: Any) -> tuple[Share | None, Share | None]:
    """The share of the frames without a bird that this device makes, and of all pictures.

    Args:
        recordings: The device's share of the recordings; None for one device.
        no_calls: Frames without a bird, over all devices.
    """
    if recordings is None:
        return None, None
    context = tf.distribute.get_replica_context()
    own = tf.range(context.replica_id_in_sync_group, no_calls, context.num_replicas_in_sync)
    rows = tf.concat([recordings.rows, recordings.total + own], axis=0)
    return Share(own, no_calls), Share(rows, recordings.total + no_calls)


def gathered(recordings: Share | None, value: Any) -> Any:
    """The rows of all devices in the order of the batch; on one device the value itself."""
    if recordings is None:
        return value
    # int8 cannot be sent between devices.
    sent = tf.cast(value, tf.int32) if value.dtype == tf.int8 else value
    return tf.cast(tf.distribute.get_replica_context().all_gather(sent, axis=0), value.dtype)


def part_of_mean(loss: Any, labels: Any, weights: Any) -> Any:
    """This device's part of the mean loss over the entries that are known on all devices."""
    known = tf.reduce_sum(known_weights(labels, weights, loss.dtype))
    everywhere = tf.distribute.get_replica_context().all_reduce("SUM", known)
    return loss * tf.math.divide_no_nan(known, everywhere)
