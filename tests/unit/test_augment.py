"""Augmentations: ranges, a different draw for each example, the same draw for the same seed."""

import numpy as np
import pytest

from birdsong import augment
from birdsong.tensorflow_setup import tf

SHAPE = (126, 64, 3)
FRAME = 110_250


def seed(number: int) -> tf.Tensor:
    return tf.constant([7, number])


def runs(row: np.ndarray) -> int:
    """Separate slices of False in a row."""
    return int(np.sum(np.diff(np.concatenate([[1], row.astype(int)])) < 0))


@pytest.fixture(scope="module")
def bank() -> augment.MaskBank:
    return augment.draw_masks(SHAPE, 0.3, 0.2, seed=3)


def test_starts_leave_a_whole_frame_and_short_recordings_keep_all() -> None:
    samples = tf.constant([1, FRAME, FRAME + 400, 2 * FRAME, 12 * FRAME] * 400)
    starts = augment.random_starts(samples, FRAME, seed(0)).numpy().reshape(-1, 5)
    assert not starts[:, :2].any()
    assert starts.min() >= 0
    assert np.all(starts[:, 2] <= 400)
    assert np.all(starts[:, 3:] < FRAME)
    assert len(np.unique(starts[:, 4])) > 100
    assert starts[:, 4].mean() == pytest.approx(FRAME / 2, rel=0.1)


def test_tensorflow_ios_masks_are_single_slices_up_to_the_share(bank: augment.MaskBank) -> None:
    for masks, length, share in ((bank.columns, 126, 0.3), (bank.bands, 64, 0.2)):
        rows = masks.numpy()
        assert rows.shape == (augment.BANK_SIZE, length)
        widths = (~rows).sum(axis=1)
        assert widths.min() == 0
        assert widths.max() == round(share * length)
        # Reference: widths are uniform from 0 to the widest, one slice each.
        assert widths.mean() == pytest.approx(round(share * length) / 2, rel=0.1)
        assert {runs(row) for row in rows[:500]} <= {0, 1}
        assert len(np.unique(rows, axis=0)) > 500
        # Any place but the very last can be hit.
        assert (~rows).any(axis=0)[:-1].all()


def test_each_picture_gets_a_mask_of_its_own_filled_with_the_floor(bank: augment.MaskBank) -> None:
    pictures = tf.fill([200, *SHAPE], 0.5)
    masked = augment.mask(pictures, bank, seed(1)).numpy()
    assert set(np.unique(masked)) == {-1.0, 0.5}
    assert np.array_equal(masked[..., 0], masked[..., 2])
    assert len(np.unique(masked[..., 0].reshape(200, -1), axis=0)) > 150
    for picture in masked[..., 0]:
        kept = picture == 0.5
        assert np.array_equal(kept, kept.any(axis=1)[:, None] & kept.any(axis=0)[None])


def test_masks_of_share_0_leave_pictures_alone_and_wide_ones_leave_something() -> None:
    pictures = tf.fill([50, *SHAPE], 0.5)
    none = augment.draw_masks(SHAPE, 0.0, 0.0, seed=0, count=64)
    assert np.all(augment.mask(pictures, none, seed(0)).numpy() == 0.5)
    wide = augment.draw_masks(SHAPE, 0.97, 0.97, seed=0, count=512)
    assert (wide.columns.numpy().any(axis=1) & wide.bands.numpy().any(axis=1)).all()


def test_the_same_seed_draws_the_same_bank() -> None:
    # Many, since TensorFlow would draw them in any order if it were allowed to.
    once, other, *again = (augment.draw_masks(SHAPE, 0.3, 0.2, s, 512) for s in (5, 6, 5, 5))
    for bank in again:
        assert np.array_equal(once.columns, bank.columns)
        assert np.array_equal(once.bands, bank.bands)
    assert not np.array_equal(once.columns, other.columns)


def test_the_raised_floor_is_minus_1_again_and_full_scale_stays() -> None:
    levels = np.linspace(-1, 1, 64, dtype=np.float32)
    pictures = np.broadcast_to(levels[None, None, :, None], (300, 5, 64, 3))
    raised = augment.raise_floor(tf.constant(pictures), 0.4, seed(2)).numpy()
    assert raised.min() == -1
    np.testing.assert_allclose(raised[:, :, -1], 1, atol=1e-6)
    assert np.all(np.diff(raised, axis=2) >= 0)
    floors = (raised[:, 0, :, 0] <= -1).mean(axis=1)
    assert floors.max() == pytest.approx(0.4, abs=0.03)
    assert floors.min() < 0.05
    assert len(np.unique(floors)) > 15
    np.testing.assert_allclose(
        augment.raise_floor(tf.constant(pictures), 0.0, seed(2)), pictures, atol=1e-6
    )


def test_a_mix_is_a_weighted_sum_with_its_own_weight_in_each_example() -> None:
    frames, partners = tf.ones([500, 4]), -tf.ones([500, 4])
    mixed = augment.mix(frames, partners, seed(3)).numpy()
    weights = (mixed[:, 0] + 1) / 2
    assert np.ptp(mixed, axis=1).max() == 0
    assert weights.min() >= augment.LEAST_WEIGHT
    assert weights.max() <= 1
    assert weights.mean() == pytest.approx(0.75, abs=0.02)


LABELS = np.array([[1, 0, 0, -1], [0, 1, -1, 0], [-1, -1, 1, 0]], np.int8)


def test_mixup_joins_the_labels_of_two_different_frames() -> None:
    frames = np.diag([0.9, -0.6, 0.3]).astype(np.float32)
    for number in range(8):
        mixed, labels = (
            value.numpy()
            for value in augment.mixup(frames, LABELS, frames, LABELS, 1.0, seed(number))
        )
        met = []
        for row in range(3):
            own = mixed[row, row] / frames[row, row]
            (other,) = set(np.flatnonzero(mixed[row])) - {row}
            assert augment.MIXUP_WEIGHTS[0] <= own <= augment.MIXUP_WEIGHTS[1]
            assert mixed[row, other] == pytest.approx((1 - own) * frames[other, other], rel=1e-5)
            # Present in either is present; unknown in either and present in none is unknown.
            expected = [
                1 if 1 in pair else min(pair)
                for pair in zip(LABELS[row].tolist(), LABELS[other].tolist(), strict=True)
            ]
            assert labels[row].tolist() == expected
            met.append(other)
        assert sorted(met) == [0, 1, 2]


def test_mixup_takes_the_share_it_is_told_and_a_lone_frame_stays() -> None:
    frames = np.eye(400, dtype=np.float32)
    labels = np.eye(400, dtype=np.int8)
    mixed, joined = augment.mixup(frames, labels, frames, labels, 0.25, seed(0))
    changed = (mixed.numpy() != frames).any(axis=1)
    assert changed.mean() == pytest.approx(0.25, abs=0.07)
    assert np.array_equal(joined.numpy().sum(axis=1) == 2, changed)
    alone, kept = augment.mixup(frames[:1], labels[:1], frames[:1], labels[:1], 1.0, seed(0))
    np.testing.assert_allclose(alone, frames[:1], rtol=1e-6)
    assert np.array_equal(kept, labels[:1])


def test_background_stands_below_the_frame_and_silence_adds_and_gets_nothing() -> None:
    random = np.random.default_rng(1)
    frames = (random.normal(size=(300, 2000)) * 0.1).clip(-1, 1).astype(np.float32)
    noise = (random.normal(size=(300, 2000)) * 0.001).astype(np.float32)
    frames[0], noise[1] = 0, 0
    noisy = np.arange(300) % 3 != 2
    found = augment.add_background(frames, noise, noisy, seed(4)).numpy()
    assert np.array_equal(found[~noisy], frames[~noisy])
    assert np.array_equal(found[:2], frames[:2])
    added = (found - frames)[noisy][2:]
    above = 10 * np.log10((frames[noisy][2:] ** 2).mean(axis=1) / (added**2).mean(axis=1))
    low, high = augment.BACKGROUND_DB
    assert low - 0.1 < above.min() < low + 2
    assert high - 2 < above.max() < high + 0.1
    loud = np.ones((20, 50), np.float32)
    assert augment.add_background(loud, loud, np.ones(20, bool), seed(5)).numpy().max() <= 1


def test_gain_only_lowers_and_by_no_more_than_it_is_told() -> None:
    frames = np.full((400, 3), -0.8, np.float32)
    lowered = augment.lower_gain(frames, 12.0, seed(6)).numpy()
    decibels = 20 * np.log10(frames[:, 0] / lowered[:, 0])
    assert np.ptp(lowered, axis=1).max() == 0
    assert 0 <= decibels.min() < 0.3
    assert 11.7 < decibels.max() <= 12.001
    assert decibels.mean() == pytest.approx(6, abs=0.6)


def test_frames_without_a_bird_are_finite_at_many_levels_and_partly_silent() -> None:
    frames = augment.no_calls(96, FRAME, 22_050, seed(4)).numpy()
    peaks = np.abs(frames).max(axis=1)
    assert frames.shape == (96, FRAME)
    assert np.isfinite(frames).all()
    assert peaks.max() <= 1 + 1e-6
    assert 0 < np.mean(peaks == 0) < 0.3
    assert np.mean(peaks > 0.999) > 0.25
    assert np.any((peaks > 0) & (peaks < 0.05))
    # Noise, from hiss to rumble: the centre of the spectrum moves over octaves.
    spectra = np.abs(np.fft.rfft(frames[peaks > 0.1])) ** 2
    centres = spectra @ np.arange(spectra.shape[1]) / spectra.sum(axis=1) / 5
    assert centres.max() / centres.min() > 8


def test_the_same_seed_draws_the_same_and_another_step_draws_anew() -> None:
    pictures = tf.random.stateless_uniform([8, *SHAPE], seed(0), -1.0, 1.0)
    for draw in (
        lambda s: augment.no_calls(2, FRAME, 22_050, s),
        lambda s: augment.raise_floor(pictures, 0.5, s),
        lambda s: augment.random_starts(tf.fill([8], 5 * FRAME), FRAME, s),
        lambda s: augment.lower_gain(tf.ones([4, 3]), 6.0, s),
        lambda s: augment.mixup(tf.eye(8), tf.eye(8), tf.eye(8), tf.eye(8), 0.7, s)[0],
        lambda s: augment.add_background(tf.eye(4), tf.ones([4, 4]), tf.fill([4], True), s),
    ):
        assert np.array_equal(draw(seed(5)), draw(seed(5)))
        assert not np.array_equal(draw(seed(5)), draw(seed(6)))
