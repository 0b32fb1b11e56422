"""Batches of recordings for training and validation, read in the background."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from birdsong.errors import DataError
from birdsong.features import FeatureSet
from birdsong.weak_labels import grain

BATCHES_AHEAD = 2
"""Batches that are read while the network works; each holds at most a minute per recording."""


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
    """

    waveforms: NDArray[np.int16]
    samples: NDArray[np.integer]
    labels: NDArray[np.int8]
    primary: NDArray[np.integer]
    partners: NDArray[np.int16]
    paired: NDArray[np.bool_]


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
        self.labels = label_matrix(
            self.primary,
            [[column[c] for c in codes if c in column] for codes in index["secondary"]],
            len(column),
        )

    def __len__(self) -> int:
        return len(self.rows)

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
            self.labels[positions],
            self.primary[positions],
            np.zeros((0, self.frame_samples), np.int16),
            np.zeros(0, np.bool_),
        )


def label_matrix(
    primary: NDArray[np.integer], secondary: Sequence[Sequence[int]], species_count: int
) -> NDArray[np.int8]:
    """Labels as a matrix: 1 primary, -1 secondary, 0 absent; int8, (windows, species)."""
    labels = np.zeros((len(primary), species_count), np.int8)
    for row, columns in zip(labels, secondary, strict=True):
        row[list(columns)] = -1
    labels[np.arange(len(primary)), primary] = 1
    return labels


class TrainingWindows(Windows):
    """The training part: epochs in a random order, with partners to mix in.

    Args:
        features: Where the windows are.
        frame_samples: Samples of one frame.
        class_balance: 0 for every window once in an epoch; up to 1, windows are drawn with weight
            count ** -class_balance of their species.
        seed: Seed of order and partners.

    Raises:
        DataError: A species has no window to train on.
    """

    def __init__(
        self, features: FeatureSet, frame_samples: int, class_balance: float, seed: int
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

    def epoch(self, number: int, batch_size: int) -> Iterator[Batch]:
        """The batches of one epoch, the same for the same seed and number; as even as can be."""
        random = np.random.default_rng([self.seed, number])
        if self.class_balance:
            order = random.choice(len(self), len(self), p=self.weights)
        else:
            order = random.permutation(len(self))
        for positions in np.array_split(order, self.steps(batch_size)):
            yield self._with_partners(positions, random)

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
            samples = self.features.waveform(int(self.rows[other]))
            start = random.integers(max(0, len(samples) - self.frame_samples) + 1)
            cut = samples[start : start + self.frame_samples]
            partners[row] = np.resize(cut, self.frame_samples)
            paired[row] = True
        return batch._replace(partners=partners, paired=paired)


def read_ahead(batches: Iterator[Batch], count: int = BATCHES_AHEAD) -> Iterator[Batch]:
    """Pass batches on, up to `count` of them read ahead by a thread.

    What the thread raises is raised here. The thread ends with the loop, also when that breaks off.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
