"""Batches of recordings for training and validation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from birdsong.errors import DataError
from birdsong.features import FeatureSet
from birdsong.weak_labels import grain

BATCHES_AHEAD = 2
"""Batches to read while the network works; each holds at most a minute per recording."""


BEST_RATING, MIDDLE_RATING = 5.0, 3.0
"""xeno-canto's ratings go from 1 to 5; a recording without one counts as the middle."""

QUIET_DB = 6.0
"""A frame counts as background of its window when it is so much below the loudest one, dB."""

Labels = NDArray[np.int8]


class Batch(NamedTuple):
    """Windows of recordings, as they are stored.

    Attributes:
        waveforms: int16, shape (recordings, longest), each padded with at least a frame of zeros.
        samples: Length of each, int32, shape (recordings,).
        labels: 1 primary, -1 secondary, 0 absent, int8, shape (recordings, species).
        primary: Column of the primary species, int32, shape (recordings,).
        partners: Five seconds of another recording of the species, int16, shape (recordings,
            frame_samples); empty, shape (0, frame_samples), for validation.
        paired: Whether there is such a partner, bool, shape (recordings,).
        backgrounds: Five seconds of audio without the species, int16, shape (recordings,
            frame_samples); (recordings, 0) where none is wanted.
        noisy: Whether a recording gets its background, bool, shape (recordings,).
        weights: What each counts in the loss, float32, shape (recordings,).
    """

    waveforms: NDArray[np.int16]
    samples: NDArray[np.integer]
    labels: NDArray[np.int8]
    primary: NDArray[np.integer]
    partners: NDArray[np.int16]
    paired: NDArray[np.bool_]
    backgrounds: NDArray[np.int16]
    noisy: NDArray[np.bool_]
    weights: NDArray[np.float32]


class Windows:
    """The windows of one part of a features artifact, by position.

    Args:
        features: Where they are.
        part: train or validation.
        frame_samples: Samples of one frame.

    Raises:
        DataError: A label is not among the classes.
    """

    def __init__(self, features: FeatureSet, part: str, frame_samples: int) -> None:
        self.features = features
        self.rows = np.asarray(features.select(part), np.int64)
        self.frame_samples = frame_samples
        index = features.index.iloc[self.rows]
        column = {code: number for number, code in enumerate(features.codes)}
        unknown = sorted(set(index["label"]) - set(column))
        if unknown:
            raise DataError(
                f"features: labels {', '.join(unknown[:5])} are not among the classes of "
                f"{features.path}. Run featurize again."
            )
        self.ids: list[str] = list(index["id"])
        self.samples = index["samples"].to_numpy(np.int32)
        self.primary = index["label"].map(column).to_numpy(np.int32)
        # Rows of (window, column): most windows have none, and species may be thousands.
        self._secondary = np.array(
            [
                (position, column[code])
                for position, codes in enumerate(index["secondary"])
                for code in codes
                if code in column
            ],
            np.int32,
        ).reshape(-1, 2)
        self._species_count = len(column)

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self, positions: Sequence[int] | NDArray[np.int64] | None = None) -> Labels:
        """Labels of windows: 1 primary, -1 secondary, 0 absent; int8, (windows, species).

        Args:
            positions: Which windows; None for all.
        """
        chosen = np.arange(len(self)) if positions is None else np.asarray(positions, np.int64)
        labels = np.zeros((len(chosen), self._species_count), np.int8)
        first, last = (
            np.searchsorted(self._secondary[:, 0], chosen, side) for side in ("left", "right")
        )
        for row, start, end in zip(labels, first, last, strict=True):
            row[self._secondary[start:end, 1]] = -1
        labels[np.arange(len(chosen)), self.primary[chosen]] = 1
        return labels

    def batch(self, positions: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Read windows as they are, without partners."""
        lengths = self.samples[positions]
        size = grain(self.frame_samples)
        longest = -(-(int(lengths.max()) + self.frame_samples) // size) * size
        waveforms = np.zeros((len(positions), longest), np.int16)
        for row, position, length in zip(waveforms, positions, lengths, strict=True):
            row[:length] = self.features.waveform(int(self.rows[position]))
        return Batch(
            waveforms,
            lengths,
            self.labels(positions),
            self.primary[positions],
            partners=np.zeros((0, self.frame_samples), np.int16),
            paired=np.zeros(0, np.bool_),
            backgrounds=np.zeros((len(positions), 0), np.int16),
            noisy=np.zeros(len(positions), np.bool_),
            weights=np.ones(len(positions), np.float32),
        )


class TrainingWindows(Windows):
    """The training part: epochs in a random order, with partners and background to mix in.

    Args:
        features: Where the windows are.
        frame_samples: Samples of one frame.
        class_balance: 0 for every window once in an epoch; up to 1, windows are drawn with weight
            count ** -class_balance of their species.
        seed: Seed of order, partners and backgrounds.
        background: Share of windows that get a background, in [0, 1].
        rating_weight: How much ratings weigh, in [0, 1].

    Raises:
        DataError: A species has no window to train on.
    """

    def __init__(
        self,
        features: FeatureSet,
        frame_samples: int,
        class_balance: float,
        seed: int,
        background: float = 0.0,
        rating_weight: float = 0.0,
    ) -> None:
        super().__init__(features, "train", frame_samples)
        counts = np.bincount(self.primary, minlength=len(features.codes))
        missing = [code for code, count in zip(features.codes, counts, strict=True) if not count]
        if missing:
            raise DataError(
                f"train: no training windows of {len(missing)} species ({', '.join(missing[:5])}). "
                "Give them recordings, or leave the species out of the metadata, and run again "
                "from ingest."
            )
        self.class_balance = class_balance
        self.seed = seed
        self.weights = np.asarray(counts[self.primary], np.float64) ** -class_balance
        self.weights /= self.weights.sum()
        self.of_species = [np.flatnonzero(self.primary == n) for n in range(len(counts))]
        self.background = background
        self.no_calls = np.asarray(features.select("no_call") if background else [], np.int64)
        rating = features.index["rating"].iloc[self.rows].to_numpy(np.float64)
        # xeno-canto writes 0 where nobody has rated.
        rating = np.where(np.isnan(rating) | (rating == 0), MIDDLE_RATING, rating)
        worth = 1 - rating_weight * (1 - rating / BEST_RATING)
        self.worth = np.asarray(worth, np.float32)

    def epoch(self, number: int, batch_size: int) -> Iterator[Batch]:
        """The batches of one epoch, the same for the same seed and number; as even as can be."""
        random = np.random.default_rng([self.seed, number])
        if self.class_balance:
            order = random.choice(len(self), len(self), p=self.weights)
        else:
            order = random.permutation(len(self))
        for positions in np.array_split(order, self.steps(batch_size)):
            batch = self._with_partners(positions, random)
            if self.background:
                batch = self._with_backgrounds(batch, positions, random)
            yield batch._replace(weights=self.worth[positions])

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return -(-len(self) // batch_size)

    def _with_partners(self, positions: NDArray[np.int64], random: np.random.Generator) -> Batch:
        batch = self.batch(positions)
        partners = np.zeros((len(positions), self.frame_samples), np.int16)
        paired = np.zeros(len(positions), np.bool_)
        for row, position in enumerate(positions):
            others = self.of_species[self.primary[position]]
            other = int(others[random.integers(len(others))])
            if self.ids[other] == self.ids[position]:
                continue
            partners[row] = self._cut(int(self.rows[other]), random)
            paired[row] = True
        return batch._replace(partners=partners, paired=paired)

    def _with_backgrounds(
        self, batch: Batch, positions: NDArray[np.int64], random: np.random.Generator
    ) -> Batch:
        backgrounds = np.zeros((len(positions), self.frame_samples), np.int16)
        noisy = random.random(len(positions)) < self.background
        for row in np.flatnonzero(noisy):
            if len(self.no_calls):
                other = int(self.no_calls[random.integers(len(self.no_calls))])
                backgrounds[row] = self._cut(other, random)
                continue
            # A recording of another species: its own song would be no background.
            other = int(random.integers(len(self)))
            quiet = None
            if self.primary[other] != self.primary[positions[row]]:
                quiet = quietest_frame(
                    self.features.waveform(int(self.rows[other])), self.frame_samples
                )
            if quiet is None:
                noisy[row] = False
            else:
                backgrounds[row] = quiet
        return batch._replace(backgrounds=backgrounds, noisy=noisy)

    def _cut(self, row: int, random: np.random.Generator) -> NDArray[np.int16]:
        """A frame of a window from anywhere; a shorter window is repeated."""
        samples = self.features.waveform(row)
        start = random.integers(max(0, len(samples) - self.frame_samples) + 1)
        return np.resize(samples[start : start + self.frame_samples], self.frame_samples)


def quietest_frame(samples: NDArray[np.int16], frame_samples: int) -> NDArray[np.int16] | None:
    """The frame of a window that is most likely without a bird.

    Args:
        samples: A window, shape (samples,).
        frame_samples: Samples of one frame.

    Returns:
        Its whole frame with the least power, shape (frame_samples,); None where no frame is
        `QUIET_DB` below the loudest one, since then the bird may sing in all of them.
    """
    count = len(samples) // frame_samples
    frames = samples[: count * frame_samples].reshape(count, frame_samples)
    # Every eighth sample is enough to compare frames, and eight times as fast.
    power = np.square(frames[:, ::8], dtype=np.float32).mean(axis=1)
    if not count or power.min() > power.max() * 10 ** (-QUIET_DB / 10):
        return None
    quietest: NDArray[np.int16] = frames[int(power.argmin())]
    return quietest
