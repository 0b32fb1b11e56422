"""The plain baseline: logistic regression on log-mel statistics of a window.

It is fitted on the same windows as the network and stands beside it everywhere: a network that
does not beat it has learnt nothing worth its cost.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from birdsong import artifacts
from birdsong.errors import DataError
from birdsong.progress import track

if TYPE_CHECKING:
    from birdsong.features import FeatureSet

Floats = npt.NDArray[np.float32]

DEFINITION = 2
"""Raised when the statistics are computed otherwise under the same names."""

BANDS = 64
FFT_SAMPLES = 1024
HOP_SAMPLES = 1024
LOWEST_HZ = 150.0
FLOOR = 1e-10
"""Power below which a band counts as silent: -100 dB re full scale."""

RECIPES: dict[str, tuple[str, ...]] = {
    "plain": ("mean", "deviation", "p90"),
    "rich": ("mean", "deviation", "p10", "p50", "p90", "max", "change"),
}
"""Statistics over time of each band's level; `change` is the mean |difference| of neighbours."""

SMALLEST_SCALE_DB = 1.0
"""Least deviation between recordings that a feature is divided by."""

INVERSE_PENALTY = 0.1
"""scikit-learn's C: a few hundred features of a few hundred windows need a firm hand."""

NPZ, JSON = "baseline.npz", "baseline.json"


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        codes: Species in the order of the scores.
        recipe: Name of its statistics in `RECIPES`.
        sample_rate: Samples per second that it was fitted at.
        mean, scale: What features are standardised by, float64, shape (features,).
        coefficients: float64, shape (species, features).
        intercepts: float64, shape (species,).
        known: Whether the species was among the fitted windows; others always score 0.
    """

    codes: tuple[str, ...]
    recipe: str
    sample_rate: int
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    coefficients: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]

    def window(self, samples: npt.NDArray[np.int16]) -> Floats:
        """Scores of one window, int16 of shape (samples,): float32 in [0, 1], (species,)."""
        scores: Floats = self._scores(statistics(samples, self.sample_rate, self.recipe)[None])[0]
        return scores

    def scores(self, features: "FeatureSet", rows: Sequence[int] | None = None) -> Floats:
        """Score windows.

        Args:
            features: Where the windows are.
            rows: Their row numbers in the index; None for all.

        Returns:
            float32 in [0, 1], shape (windows, species); a window's scores add up to 1.
        """
        chosen = range(len(features)) if rows is None else rows
        return self._scores(_all_statistics(features, chosen, self.recipe))

    def _scores(self, table: Floats) -> Floats:
        # One window at a time would give BLAS another order of summation than many at a time;
        # einsum's is the same for any number of rows, so a window scores the same in any company.
        standard = (table.astype(np.float64) - self.mean) / self.scale
        logits = np.einsum("wf,sf->ws", standard, self.coefficients) + self.intercepts
        logits[:, ~self.known] = -np.inf
        logits -= logits.max(axis=1, keepdims=True, initial=-1e300)
        shares = np.exp(logits)
        scores: Floats = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        return scores

    def save(self, folder: str | Path) -> None:
        """Write `baseline.npz` and `baseline.json` into a folder."""
        place = Path(folder)
        with artifacts.write_aside(place / NPZ) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mean=self.mean,
                scale=self.scale,
                coefficients=self.coefficients,
                intercepts=self.intercepts,
                known=self.known,
            )
        artifacts.write_json(
            place / JSON,
            {
                "what": "logistic regression (softmax over species) on log-mel statistics of a "
                "window of up to 60 s; the label is the primary species",
                "sample_rate": self.sample_rate,
                **_definition(self.recipe),
                "species": list(self.codes),
                "species_without_windows": [
                    code for code, known in zip(self.codes, self.known, strict=True) if not known
                ],
            },
        )


def load(folder: str | Path) -> Baseline:
    """Read what `Baseline.save` wrote.

    Raises:
        DataError: A file is missing, broken or made with other features than these.
    """
    place = Path(folder)
    about = artifacts.read_json(place / JSON)
    try:
        with np.load(place / NPZ, allow_pickle=False) as arrays:
            baseline = Baseline(
                codes=tuple(about["species"]),
                recipe=about["recipe"],
                sample_rate=int(about["sample_rate"]),
                **{name: arrays[name] for name in arrays.files},
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place / NPZ} cannot be read ({error}). Train the model again.") from None
    expected = _definition(baseline.recipe)
    if {name: about.get(name) for name in expected} != expected:
        raise DataError(
            f"{place / JSON} defines its features otherwise than this birdsong computes them. "
            "Train the model again."
        )
    return baseline


def fit(features: "FeatureSet", rows: Sequence[int], recipe: str = "plain") -> Baseline:
    """Fit the baseline; the settings are fixed, nothing is searched.

    A recording counts once, however many windows it has. Secondary labels are not used.

    Args:
        features: Where the windows are.
        rows: Row numbers of the training windows.
        recipe: Name in `RECIPES`.

    Raises:
        DataError: There are no windows, or a label is not among the species.
    """
    codes = features.codes
    if not len(rows):
        raise DataError("The baseline got no windows to learn from. Lower the held-out fractions.")
    index = features.index.iloc[list(rows)]
    order = {code: position for position, code in enumerate(codes)}
    unknown = sorted(set(index["label"]) - set(order))
    if unknown:
        raise DataError(f"Labels without a species in classes.json: {', '.join(unknown[:5])}.")
    targets = index["label"].map(order).to_numpy(int)
    weights = 1.0 / index.groupby("id")["id"].transform("size").to_numpy(float)
    table = _all_statistics(features, rows, recipe).astype(np.float64)
    mean = np.average(table, axis=0, weights=weights)
    scale = np.sqrt(np.average((table - mean) ** 2, axis=0, weights=weights))
    # Features that hardly vary say nothing; stretched to unit variance they would be learnt by
    # heart, as the fingerprint of a recording's noise.
    scale = np.maximum(scale, SMALLEST_SCALE_DB)
    present = np.unique(targets)
    coefficients = np.zeros((len(codes), table.shape[1]))
    intercepts = np.zeros(len(codes))
    if len(present) > 1:
        slopes, offsets = _regress((table - mean) / scale, targets, weights)
        coefficients[present], intercepts[present] = slopes, offsets
    known = np.zeros(len(codes), bool)
    known[present] = True
    return Baseline(
        codes=tuple(codes),
        recipe=recipe,
        sample_rate=features.config.sample_rate,
        mean=mean,
        scale=scale,
        coefficients=coefficients,
        intercepts=intercepts,
        known=known,
    )


def _regress(
    table: npt.NDArray[np.float64],
    targets: npt.NDArray[np.integer[Any]],
    weights: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Slopes and offsets of the classes that are present, in ascending order."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=500)
    with warnings.catch_warnings():
        # 500 steps are plenty for a penalised fit; one that still creeps is used as it stands.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table, targets, sample_weight=weights)
    if len(model.classes_) == 2:
        # scikit-learn keeps one row for two classes: the logit of the second.
        return np.vstack([0 * model.coef_, model.coef_]), np.array([0.0, model.intercept_[0]])
    return model.coef_, model.intercept_


def _definition(recipe: str) -> dict[str, Any]:
    """What scores depend on; a baseline that was fitted with other values is refused."""
    return {
        "definition": DEFINITION,
        "recipe": recipe,
        "bands": BANDS,
        "fft_samples": FFT_SAMPLES,
        "hop_samples": HOP_SAMPLES,
        "lowest_hz": LOWEST_HZ,
        "smallest_scale_db": SMALLEST_SCALE_DB,
        "inverse_penalty": INVERSE_PENALTY,
        "features": feature_names(recipe),
    }


def feature_names(recipe: str) -> list[str]:
    """Names of the features, in their order: `mean_00` to `mean_63`, then the next statistic."""
    return [f"{name}_{band:02d}" for name in RECIPES[recipe] for band in range(BANDS)]


def statistics(samples: npt.NDArray[np.int16], sample_rate: int, recipe: str = "plain") -> Floats:
    """Log-mel statistics of one window.

    Args:
        samples: int16, shape (samples,), any length of at least one sample.
        sample_rate: Samples per second.
        recipe: Name in `RECIPES`.

    Returns:
        Statistics over time of the level of each band in dB re full scale, float32, shape
        (statistics * 64,), in the order of `feature_names`.
    """
    levels = _levels(samples, sample_rate)
    rising = np.sort(levels, axis=0)

    def share(part: float) -> Floats:
        level: Floats = rising[round(part * (len(rising) - 1))]
        return level

    values: dict[str, Callable[[], Floats]] = {
        "mean": lambda: levels.mean(axis=0),
        "deviation": lambda: levels.std(axis=0),
        "p10": lambda: share(0.1),
        "p50": lambda: share(0.5),
        "p90": lambda: share(0.9),
        "max": lambda: share(1),
        # A single column has no neighbour: it stands beside itself and changes by 0.
        "change": lambda: np.abs(np.diff(levels, axis=0, append=levels[-1:])).mean(axis=0),
    }
    return np.concatenate([values[name]() for name in RECIPES[recipe]]).astype(np.float32)


def _levels(samples: npt.NDArray[np.int16], sample_rate: int) -> Floats:
    """Level of each mel band in dB re full scale, float32, shape (columns, bands)."""
    from scipy.fft import rfft

    # A column that is half padding would tell how long the window is; only a lone one is padded.
    columns = max(1, len(samples) // HOP_SAMPLES)
    padded = np.zeros((columns - 1) * HOP_SAMPLES + FFT_SAMPLES, np.float32)
    kept = samples[: len(padded)]
    padded[: len(kept)] = kept
    padded /= 32_767
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    taper = np.hanning(FFT_SAMPLES).astype(np.float32)
    spectrum = rfft(pieces * (taper * np.float32(2 / taper.sum())), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    level: Floats = 10 * np.log10(power @ _mel(sample_rate) + np.float32(FLOOR))
    return level


@functools.cache
def _mel(sample_rate: int) -> Floats:
    """Triangles on the mel scale, each of weight 1, float32, shape (bins, bands).

    Source:
        Mel scale of the HTK Book (Young et al., 2006): 2595 * log10(1 + f / 700).
    """
    hertz = np.fft.rfftfreq(FFT_SAMPLES, 1 / sample_rate)
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST_HZ, sample_rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    # A triangle narrower than one bin could fall between two of them and be empty.
    width = sample_rate / FFT_SAMPLES
    rise = (hertz[:, None] - centre) / np.maximum(centre - left, width) + 1
    fall = (centre - hertz[:, None]) / np.maximum(right - centre, width) + 1
    weights = np.maximum(0, np.minimum(rise, fall))
    triangles: Floats = (weights / weights.sum(axis=0)).astype(np.float32)
    return triangles


def _all_statistics(features: "FeatureSet", rows: Sequence[int], recipe: str) -> Floats:
    """Statistics of many windows, on all cores: float32, shape (windows, features)."""
    rate = features.config.sample_rate

    def one(row: int) -> Floats:
        return statistics(features.waveform(int(row)), rate, recipe)

    table = np.empty((len(rows), BANDS * len(RECIPES[recipe])), np.float32)
    # Threads suffice: the FFT and NumPy's arithmetic let go of the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # In slices, or the pool would run ahead and hold the results of all windows.
        vectors = (
            vector
            for start in range(0, len(rows), 256)
            for vector in pool.map(one, rows[start : start + 256])
        )
        for number, vector in enumerate(track(vectors, len(rows), "baseline", "windows")):
            table[number] = vector
    return table
