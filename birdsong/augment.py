"""Augmentations as TensorFlow graphs, each example for itself.

Every function draws from a stateless `seed`, int32 of shape (2,), made from the run's seed and the
number of the step: the same step draws the same numbers, also when a training goes on later.
"""

from typing import Any, NamedTuple

from birdsong.tensorflow_setup import tf, tfio_audio
from birdsong.weak_labels import grain

NO_CALL_SHARE = 1 / 4
"""Frames without any bird that are added to a batch, as a share of its recordings.

A classifier that has only ever seen birds calls noise a bird: custom classifiers of
BirdNET-Analyzer fired on nearly all of it (its issue 823). These frames have no species.
"""

SILENT_SHARE = 0.1
"""Share of the frames without a bird that are digital silence."""

QUIETEST_DB = -60.0
"""Level of the quietest noise; half of it is as loud as can be, like a window after featurize."""

LEAST_WEIGHT = 0.5
"""Least weight of a recording when another of its species is mixed in."""

MIXUP_WEIGHTS = (0.3, 0.7)
"""Weight of an example when one of any species is mixed in: both stay audible, and both count."""

BACKGROUND_DB = (3.0, 30.0)
"""Level of an example above the background that is added to it, dB between their mean powers."""

BANK_SIZE = 4096
"""Masks of each kind that are drawn for a training; an example takes any pair of them."""


class Share(NamedTuple):
    """The rows of a batch that one of several devices holds.

    Together they draw what one device would: each draws for all rows and takes its own.
    """

    rows: Any
    total: Any


def _uniform(count: Any, seed: Any, low: Any, high: Any, share: Share | None) -> Any:
    """One number for each row, float32, shape (count,)."""
    if share is None:
        return tf.random.stateless_uniform([count], seed, low, high)
    return tf.gather(tf.random.stateless_uniform([share.total], seed, low, high), share.rows)


def random_starts(samples: Any, frame_samples: int, seed: Any, share: Share | None = None) -> Any:
    """Choose how much audio to remove from the start, so that frames are cut anywhere.

    Args:
        samples: Lengths of the recordings, int32, shape (recordings,).
        frame_samples: Samples of one frame.
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        int32, shape (recordings,), from 0 to less than a frame, multiples of `grain`; at least one
        whole frame is left, and a recording no longer than a frame keeps all.
    """
    size = grain(frame_samples)
    room = tf.clip_by_value(samples - frame_samples, 0, frame_samples - 1)
    part = _uniform(tf.shape(samples)[0], seed, 0.0, 1.0, share)
    return tf.cast(part * tf.cast(room + 1, tf.float32), tf.int32) // size * size


def mix(frames: Any, partners: Any, seed: Any, share: Share | None = None) -> Any:
    """Mix each frame with one of another recording of its species.

    Args:
        frames: Samples in [-1, 1], float32, shape (frames, samples).
        partners: The same, what is mixed in; a frame's own samples where there is no partner.
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        weight * frame + (1 - weight) * partner with a weight from `LEAST_WEIGHT` to 1 per example,
        so that the sum stays in [-1, 1].
    """
    weight = _uniform(tf.shape(frames)[0], seed, LEAST_WEIGHT, 1.0, share)[:, tf.newaxis]
    return weight * frames + (1 - weight) * partners


def mixup(
    frames: Any,
    labels: Any,
    others: Any,
    other_labels: Any,
    part: float,
    seed: Any,
    share: Share | None = None,
) -> tuple[Any, Any]:
    """Mix some of the frames with any other frame of the batch; what is in either is in the sum.

    Args:
        frames: Samples in [-1, 1], float32, shape (frames, samples).
        labels: 1 primary, -1 unknown, 0 absent, int8, shape (frames, species).
        others, other_labels: The same of the whole batch; on one device the very same.
        part: Share of the frames that are mixed, in [0, 1].
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        Frames in [-1, 1] and their labels: present where either has the species, unknown where
        either does not know of it and none has it.

    Source:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; with labels joined instead
        of weighted, as a quiet bird is there as much as a loud one.
    """
    seeds = tf.random.split(seed, 3)
    count, total = tf.shape(frames)[0], tf.shape(others)[0]
    chosen = _uniform(count, seeds[0], 0.0, 1.0, share) < part
    weight = _uniform(count, seeds[1], *MIXUP_WEIGHTS, share)[:, tf.newaxis]
    # Each frame is mixed into one other. In a random circle nobody is his own neighbour.
    circle = tf.random.experimental.stateless_shuffle(tf.range(total), seeds[2])
    neighbour = tf.scatter_nd(circle[:, tf.newaxis], tf.roll(circle, 1, axis=0), [total])
    picks = tf.gather(neighbour, share.rows) if share else neighbour
    added, found = tf.gather(others, picks), tf.gather(other_labels, picks)
    mixed = weight * frames + (1 - weight) * added
    joined = tf.where((labels > 0) | (found > 0), tf.ones_like(labels), tf.minimum(labels, found))
    return (
        tf.where(chosen[:, tf.newaxis], mixed, frames),
        tf.where(chosen[:, tf.newaxis], joined, labels),
    )


def add_background(
    frames: Any, backgrounds: Any, noisy: Any, seed: Any, share: Share | None = None
) -> Any:
    """Add background below the level of each frame, as another place or a worse day would.

    Args:
        frames: Samples in [-1, 1], float32, shape (frames, samples).
        backgrounds: Audio without the species, the same shape.
        noisy: Which frames get theirs, bool, shape (frames,).
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        Frames in [-1, 1]; the mean power of a frame is `BACKGROUND_DB` above that of what was
        added. Silence gets nothing added, and silence adds nothing.
    """
    above = _uniform(tf.shape(frames)[0], seed, *BACKGROUND_DB, share)[:, tf.newaxis]
    power, noise = (
        tf.reduce_mean(tf.square(waves), axis=1, keepdims=True) for waves in (frames, backgrounds)
    )
    factor = tf.sqrt(tf.math.divide_no_nan(power, noise)) * 10 ** (-above / 20)
    summed = frames + factor * backgrounds
    summed /= tf.maximum(1.0, tf.reduce_max(tf.abs(summed), axis=1, keepdims=True))
    return tf.where(noisy[:, tf.newaxis], summed, frames)


def lower_gain(frames: Any, most_db: float, seed: Any, share: Share | None = None) -> Any:
    """Make each frame quieter by 0 to `most_db` dB, as a more distant bird.

    Louder is not possible: windows fill the scale already.

    Args:
        frames: Samples in [-1, 1], float32, shape (frames, samples).
        most_db: Most by which a frame is lowered, dB.
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.
    """
    lowered = _uniform(tf.shape(frames)[0], seed, 0.0, most_db, share)[:, tf.newaxis]
    return frames * 10 ** (-lowered / 20)


def raise_floor(pictures: Any, most: float, seed: Any, share: Share | None = None) -> Any:
    """Raise the decibel floor by a random amount, as a noisier or coarser microphone would.

    Args:
        pictures: Levels in [-1, 1], shape (pictures, columns, bands, channels).
        most: Most by which it is raised, share of the range, in [0, 1).
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        Levels in [-1, 1] again: the raised floor and all below it become -1.
    """
    part = tf.reshape(_uniform(tf.shape(pictures)[0], seed, 0.0, 1.0, share), [-1, 1, 1, 1])
    floor = 2 * part * most - 1
    return tf.maximum(2 * (pictures - floor) / (1 - floor) - 1, -1.0)


class MaskBank(NamedTuple):
    """Slices to mask: True where a picture is kept, bool, shapes (masks, columns or bands)."""

    columns: Any
    bands: Any


def draw_masks(
    shape: tuple[int, int, int],
    time_share: float,
    freq_share: float,
    seed: int,
    count: int = BANK_SIZE,
) -> MaskBank:
    """Draw slices of time and of bands with tensorflow-io's masks.

    Its operations keep a hidden random state, so they are run once, before training; an example
    then picks by its stateless seed. A bank of 4,096 covers most of the possible slices.

    Args:
        shape: Columns, bands and channels of the pictures.
        time_share: Widest slice of time, share of the columns, in [0, 1).
        freq_share: Widest slice of bands, share of the bands, in [0, 1).
        seed: Seed of the bank.
        count: Masks of each kind.

    Returns:
        Masks whose slices are 0 to `round(share * length)` wide.
    """
    audio = tfio_audio()
    columns, bands, _ = shape
    # tensorflow-io draws a width below its parameter.
    widest_time, widest_freq = round(time_share * columns) + 1, round(freq_share * bands) + 1

    @tf.function  # type: ignore[untyped-decorator]
    def draw() -> Any:
        def one(_: Any) -> Any:
            in_time = audio.time_mask(tf.ones([columns, 1]), widest_time)
            in_freq = audio.freq_mask(tf.ones([1, bands]), widest_freq)
            return in_time[:, 0] > 0, in_freq[0] > 0

        # One after another: side by side the draws would come in any order, with the same seed.
        # (`tf.vectorized_map` does the same here: a slice's place depends on its drawn width.)
        kept = (tf.TensorSpec([columns], tf.bool), tf.TensorSpec([bands], tf.bool))
        return tf.map_fn(one, tf.zeros([count]), parallel_iterations=1, fn_output_signature=kept)

    tf.random.set_seed(seed)
    # Not `draw()`: each training traces its own, of which TensorFlow would warn.
    return MaskBank(*draw.get_concrete_function()())


def mask(pictures: Any, bank: MaskBank, seed: Any, share: Share | None = None) -> Any:
    """Mask a slice of time and a slice of bands of each picture, in all its channels.

    Args:
        pictures: Levels in [-1, 1], shape (pictures, columns, bands, channels).
        bank: What `draw_masks` gave for this shape.
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        The pictures with -1, the level of silence, in the slices.
    """
    count = tf.shape(bank.columns)[0]
    size = share.total if share else tf.shape(pictures)[0]
    picks = tf.random.stateless_uniform([2, size], seed, 0, count, dtype=tf.int32)
    if share:
        picks = tf.gather(picks, share.rows, axis=1)
    columns = tf.gather(bank.columns, picks[0])[:, :, tf.newaxis, tf.newaxis]
    bands = tf.gather(bank.bands, picks[1])[:, tf.newaxis, :, tf.newaxis]
    return tf.where(columns & bands, pictures, -1.0)


def no_calls(
    count: Any, samples: int, sample_rate: int, seed: Any, share: Share | None = None
) -> Any:
    """Make frames without a bird: coloured noise with hum at many levels, and silence.

    Args:
        count: Frames to make over all devices.
        samples: Samples of a frame.
        sample_rate: Samples per second.
        seed: Stateless seed.
        share: Which rows of the batch these are; None for all.

    Returns:
        float32 in [-1, 1], shape (count or rows of the share, samples). Power falls with frequency
        f as f ** -k, k from -0.5 to 2.5 (white is 0, pink 1, brown 2); mains hum of 50 or 60 Hz
        adds to it.
    """
    seeds = tf.random.split(seed, 7)

    def draw(number: int, low: float, high: float) -> Any:
        return _uniform(count, seeds[number], low, high, share)[:, tf.newaxis]

    length = 1 << (samples - 1).bit_length()
    white = tf.random.stateless_normal([count, length], seeds[0])
    spectrum = tf.signal.rfft(white if share is None else tf.gather(white, share.rows))
    hz = tf.range(1, length // 2 + 2, dtype=tf.float32) * (sample_rate / length)
    slope = (hz / 1000.0) ** (-draw(1, -0.5, 2.5) / 2)
    # Below 20 Hz microphones hear nothing, and brown noise would be all rumble.
    slope = tf.where(hz < 20, 0.0, slope)
    noise = tf.signal.irfft(spectrum * tf.cast(slope, tf.complex64))[:, :samples]
    noise /= tf.reduce_max(tf.abs(noise), axis=1, keepdims=True) + 1e-9
    mains = tf.where(draw(2, 0.0, 1.0) < 0.5, 50.0, 60.0)
    time = tf.range(samples, dtype=tf.float32) / sample_rate
    hum = tf.add_n([tf.sin(2 * 3.141592653589793 * n * mains * time) / n for n in (1.0, 2.0, 3.0)])
    noise += tf.maximum(draw(3, -1.0, 1.0), 0.0) * hum
    noise /= tf.reduce_max(tf.abs(noise), axis=1, keepdims=True) + 1e-9
    level = 10 ** (tf.minimum(draw(4, QUIETEST_DB, -QUIETEST_DB), 0.0) / 20)
    return tf.where(draw(5, 0.0, 1.0) < SILENT_SHARE, 0.0, noise * level)
