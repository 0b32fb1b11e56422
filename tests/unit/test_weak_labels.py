"""Frames, the best of them, loss and metric, against plain NumPy."""

import numpy as np
import pytest

from birdsong import audio, weak_labels
from birdsong.config import FeatureConfig
from birdsong.tensorflow_setup import tf

FRAME = 110_250


def padded(windows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    size = weak_labels.grain(FRAME)
    longest = -(-(max(map(len, windows)) + FRAME) // size) * size
    waveforms = np.zeros((len(windows), longest), np.int16)
    for row, window in zip(waveforms, windows, strict=True):
        row[: len(window)] = window
    return waveforms, np.array([len(window) for window in windows], np.int32)


def slow_loss(
    labels: np.ndarray,
    logits: np.ndarray,
    pos_weight: float,
    smoothing: float = 0.0,
    weights: np.ndarray | None = None,
) -> float:
    total, count = 0.0, 0.0
    for row in range(len(labels)):
        weight = 1.0 if weights is None else float(weights[row])
        for label, logit in zip(labels[row], logits[row], strict=True):
            if label < 0:
                continue
            p = 1 / (1 + np.exp(-np.float64(logit)))
            target = (1 - smoothing) * label + smoothing / labels.shape[1]
            total -= weight * (pos_weight * target * np.log(p) + (1 - target) * np.log(1 - p))
            count += weight
    return total / count if count else 0.0


def test_frames_are_those_that_serving_cuts() -> None:
    random = np.random.default_rng(0)
    lengths = [1, FRAME - 1, FRAME, FRAME + 1, 12 * FRAME, 3 * FRAME + 7]
    windows = [random.integers(-32767, 32768, size, np.int16) for size in lengths]
    waveforms, samples = padded(windows)
    frames, owner = weak_labels.cut_frames(waveforms, samples, np.zeros_like(samples), FRAME)
    for number, window in enumerate(windows):
        expected = audio.frames(window, FeatureConfig())
        np.testing.assert_allclose(frames.numpy()[owner.numpy() == number], expected, atol=1e-7)


def test_frames_start_where_they_are_told_and_never_reach_into_a_neighbour() -> None:
    size = weak_labels.grain(FRAME)
    windows = [np.full(2 * FRAME, 1000, np.int16), np.full(FRAME + size, -2000, np.int16)]
    waveforms, samples = padded(windows)
    starts = np.array([FRAME // 2 // size * size, size], np.int32)
    frames, owner = weak_labels.cut_frames(waveforms, samples, starts, FRAME)
    assert owner.numpy().tolist() == [0, 0, 1]
    values = np.rint(frames.numpy() * 32767)
    assert set(values[0]) == {1000}
    assert set(values[1]) == {1000, 0}
    assert np.count_nonzero(values[1]) == 2 * FRAME - starts[0] - FRAME
    assert set(values[2]) == {-2000}


def test_the_best_frame_of_each_recording_is_found_and_of_equals_the_first() -> None:
    scores = np.array([0.1, 0.9, 0.9, -3.0, 5.0, 5.0, -np.inf], np.float32)
    owner = np.array([0, 0, 0, 1, 2, 2, 3], np.int32)
    assert weak_labels.best_frames(scores, owner, 4).numpy().tolist() == [1, 3, 4, 6]


def test_a_recording_scores_as_its_best_frame() -> None:
    scores = np.array([[1, -5], [0, 2], [-3, -4]], np.float32)
    found = weak_labels.recording_scores(scores, np.array([0, 0, 1], np.int32), 2)
    assert found.numpy().tolist() == [[1, 2], [-3, -4]]


@pytest.mark.parametrize("pos_weight", [1.0, 3.5])
def test_the_loss_is_that_of_plain_numpy(pos_weight: float) -> None:
    random = np.random.default_rng(1)
    labels = random.choice([0, 0, 0, 1, -1], (9, 7)).astype(np.int8)
    labels[4] = -1
    logits = random.normal(size=(9, 7)).astype(np.float32) * 4
    loss = weak_labels.crossentropy_modified(labels, logits, pos_weight)
    assert float(loss) == pytest.approx(slow_loss(labels, logits, pos_weight), rel=1e-5)


def test_a_weighted_and_smoothed_loss_is_that_of_plain_numpy() -> None:
    random = np.random.default_rng(2)
    labels = random.choice([0, 0, 0, 1, -1], (9, 7)).astype(np.int8)
    labels[4] = -1
    logits = random.normal(size=(9, 7)).astype(np.float32) * 4
    weights = random.uniform(0.2, 1, 9).astype(np.float32)
    weights[2] = 0
    loss = weak_labels.crossentropy_modified(labels, logits, 2.0, 0.1, weights)
    assert float(loss) == pytest.approx(slow_loss(labels, logits, 2.0, 0.1, weights), rel=1e-5)
    nothing = weak_labels.crossentropy_modified(labels, logits, weights=np.zeros(9, np.float32))
    assert float(nothing) == 0


def test_secondary_species_change_neither_loss_nor_gradient() -> None:
    labels = np.array([[1, -1, 0]], np.int8)
    logits = tf.Variable([[0.3, 80.0, -1.0]])
    with tf.GradientTape() as tape:
        loss = weak_labels.crossentropy_modified(labels, logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert gradient[0, 1] == 0
    assert np.all(gradient[0, [0, 2]] != 0)
    assert float(loss) == pytest.approx(slow_loss(labels, logits.numpy(), 1.0), rel=1e-6)


def test_the_loss_of_rows_that_are_all_masked_is_0_and_so_is_the_gradient() -> None:
    logits = tf.Variable(np.ones((2, 3), np.float32))
    with tf.GradientTape() as tape:
        loss = weak_labels.crossentropy_modified(np.full((2, 3), -1, np.int8), logits)
    assert float(loss) == 0
    assert not tape.gradient(loss, logits).numpy().any()


def test_the_loss_is_finite_for_extreme_logits() -> None:
    labels = np.array([[1, 0, -1]], np.int8)
    loss = weak_labels.crossentropy_modified(labels, np.array([[-1e4, 1e4, 1e4]], np.float32))
    assert np.isfinite(float(loss))


def test_accuracy_counts_primary_and_secondary_and_breaks_ties_by_order() -> None:
    labels = np.array(
        [[1, 0, -1], [1, 0, -1], [1, 0, -1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], np.int8
    )
    scores = np.array(
        [
            [0.9, 0.1, 0.2],  # the primary on top
            [0.1, 0.2, 0.9],  # a secondary on top
            [0.1, 0.9, 0.2],  # an absent one on top
            [0.5, 0.5, 0.1],  # a tie: the first counts, which is absent
            [0.0, 0.0, 0.0],  # a tie of all: the first counts, which is the primary
            [0.3, 0.1, 0.2],  # nothing is present
        ],
        np.float32,
    )
    found = weak_labels.multi_category_accuracy(labels, scores).numpy()
    expected = [
        float(row[np.argmax(score)] != 0) for row, score in zip(labels, scores, strict=True)
    ]
    assert found.tolist() == expected == [1, 1, 0, 0, 1, 0]
    every = weak_labels.multi_category_accuracy(np.full((1, 3), -1, np.int8), scores[:1])
    assert every.numpy().tolist() == [1]
