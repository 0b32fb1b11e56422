"""Learning from one label for a whole recording: frames, the best of them, loss and metric.

A recording's label does not say when the bird sings. Training uses the frame that scores highest
for the recording's species, and a recording scores as its best frame does.

Labels are a matrix (recordings, species): 1 primary, -1 secondary (present, or not; unknown), 0
absent.

Source:
    Kumar and Raj, "Deep CNN framework for audio event recognition using weakly labeled web data",
    2017.
"""

from typing import Any

from birdsong.tensorflow_setup import tf

FULL_SCALE = 32_767
"""The 16-bit value of 1, as in `birdsong.audio.frames`."""


def grain(frame_samples: int) -> int:
    """Samples that starts are multiples of: whole blocks are 20 times faster to gather."""
    return max(size for size in range(1, 257) if frame_samples % size == 0)


def cut_frames(waveforms: Any, samples: Any, starts: Any, frame_samples: int) -> tuple[Any, Any]:
    """Cut a batch of recordings into all of its frames, without those that are only padding.

    Args:
        waveforms: int16, shape (recordings, longest), each padded with at least a frame of zeros;
            longest is a multiple of `grain(frame_samples)`.
        samples: Length of each recording, int32, shape (recordings,).
        starts: Samples that are left out at each recording's start, multiples of the grain, the
            same shape.
        frame_samples: Samples of one frame.

    Returns:
        Frames as float32 in [-1, 1], shape (frames, frame_samples), a recording's last one padded
        with zeros; and the recording each belongs to, int32, shape (frames,), rising. Every
        recording has a frame, if only of silence.
    """
    size = grain(frame_samples)
    counts = tf.maximum(1, -((starts - samples) // frame_samples))
    owner = tf.repeat(tf.range(tf.shape(samples)[0]), counts)
    number = tf.range(tf.shape(owner)[0]) - tf.gather(tf.cumsum(counts, exclusive=True), owner)
    first = owner * tf.shape(waveforms)[1] + tf.gather(starts, owner) + number * frame_samples
    blocks = (first // size)[:, tf.newaxis] + tf.range(frame_samples // size)
    values = tf.gather(tf.reshape(waveforms, [-1, size]), blocks)
    frames = tf.cast(tf.reshape(values, [-1, frame_samples]), tf.float32)
    return frames * (1 / FULL_SCALE), owner


def best_frames(scores: Any, owner: Any, recordings: Any) -> Any:
    """Find the frame of each recording that scores highest; of equal ones the first.

    Args:
        scores: Each frame's score for its recording's species, shape (frames,).
        owner: The recording of each frame, int32, rising, shape (frames,).
        recordings: How many recordings there are, each with a frame.

    Returns:
        Positions of frames, int32, shape (recordings,).
    """
    highest = tf.math.unsorted_segment_max(scores, owner, recordings)
    position = tf.range(tf.shape(scores)[0])
    candidates = tf.where(scores >= tf.gather(highest, owner), position, tf.int32.max)
    best = tf.math.unsorted_segment_min(candidates, owner, recordings)
    # NaN equals nothing; the loss will show it, so here it need only not point outside.
    return tf.minimum(best, tf.shape(scores)[0] - 1)


def recording_scores(scores: Any, owner: Any, recordings: Any) -> Any:
    """A recording's scores: the highest over its frames, shape (recordings, species)."""
    return tf.math.unsorted_segment_max(scores, owner, recordings)


def crossentropy_modified(
    labels: Any,
    logits: Any,
    pos_weight: float = 1.0,
    smoothing: float = 0.0,
    weights: Any = None,
) -> Any:
    """Sigmoid cross-entropy over the species that are known to be present or absent.

    Args:
        labels: 1, -1 or 0 as above, shape (recordings, species).
        logits: The network's output before the sigmoid, the same shape.
        pos_weight: Weight of positives.
        smoothing: Targets are 1 - smoothing for a species that is there, plus smoothing / species
            for every species.
        weights: Weight of each recording, shape (recordings,); None for equal ones.

    Returns:
        Weighted mean over all entries that are not -1, a scalar; 0 where there is none.
    """
    known = known_weights(labels, weights, logits.dtype)
    present = tf.cast(labels > 0, logits.dtype)
    if smoothing:
        share = smoothing / tf.cast(tf.shape(labels)[1], logits.dtype)
        present = present * (1 - smoothing) + share
    each = tf.nn.weighted_cross_entropy_with_logits(present, logits, pos_weight)
    return tf.math.divide_no_nan(tf.reduce_sum(known * each), tf.reduce_sum(known))


def known_weights(labels: Any, weights: Any, dtype: Any) -> Any:
    """What each entry counts in the loss: its recording's weight, 0 where it is not known.

    Args and shapes as in `crossentropy_modified`.
    """
    known = tf.cast(labels >= 0, dtype)
    return known if weights is None else known * tf.cast(weights, dtype)[:, tf.newaxis]


def multi_category_accuracy(labels: Any, scores: Any) -> Any:
    """Whether the top species is the primary or one of the secondary, for each recording.

    Args:
        labels: 1, -1 or 0 as above, shape (recordings, species).
        scores: Any scores that rise with belief, the same shape; of equal ones the first counts.

    Returns:
        1.0 or 0.0, float32, shape (recordings,).
    """
    top = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.cast(tf.gather(labels, top, batch_dims=1) != 0, tf.float32)
