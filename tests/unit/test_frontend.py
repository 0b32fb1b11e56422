"""The front end: what the reference got wrong, the twin in NumPy, and hard input."""

import librosa
import numpy as np
import pytest

from birdsong.config import FRONT_ENDS, FrontEndConfig
from birdsong.errors import DataError
from birdsong.frontend import fft_length, mel_matrix, pictures, window_values
from birdsong.frontend_graph import FrontEnd

SAMPLES = 110_250
TIME = np.arange(SAMPLES) / 22_050


def hard_frames() -> np.ndarray:
    """Noise, a tone, silence, one sample, clipped, a chirp, faint noise, full scale throughout."""
    random = np.random.default_rng(0)
    one = np.zeros(SAMPLES)
    one[SAMPLES // 2] = 1
    frames = [
        random.normal(size=SAMPLES) * 0.2,
        np.sin(2 * np.pi * 4000 * TIME),
        np.zeros(SAMPLES),
        one,
        np.clip(20 * np.sin(2 * np.pi * 600 * TIME), -1, 1),
        np.sin(2 * np.pi * (1000 * TIME + 800 * TIME**2)) * np.exp(-TIME),
        random.normal(size=SAMPLES) * 1e-4,
        np.ones(SAMPLES),
    ]
    return np.asarray(frames, np.float32)


@pytest.fixture(scope="module", params=sorted(FRONT_ENDS))
def config(request: pytest.FixtureRequest) -> FrontEndConfig:
    return FRONT_ENDS[request.param]


@pytest.mark.parametrize("window", FrontEndConfig().windows)
def test_a_tone_leaks_less_than_minus_100_db_20_bins_away(window: int) -> None:
    assert fft_length(window) >= window
    length = fft_length(window)
    tone = np.sin(2 * np.pi * 4000 * TIME[:window])
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(tone * window_values(window), length)) + 1e-12)
    # The reference's bin is a 1,323rd of the rate, whatever the window; its crop leaked -36 dB.
    away = 20 * 22_050 / 1323
    hz = np.arange(length // 2 + 1) * 22_050 / length
    assert spectrum.max() == pytest.approx(0, abs=0.6)
    if window == max(FrontEndConfig().windows):
        assert spectrum[np.abs(hz - 4000) > away].max() < -100


def test_the_graph_sees_the_same_tone_without_leakage() -> None:
    config = FrontEndConfig(floor_db=120.0)
    tone = np.sin(2 * np.pi * 4000 * TIME)[np.newaxis].astype(np.float32)
    long_window = FrontEnd(config)(tone).numpy()[0, 150, :, 0]
    db = (long_window - 1) / 2 * config.floor_db
    bands = mel_matrix(config, 2646)
    hz = bands.argmax(axis=0) * 22_050 / fft_length(2646)
    assert db.max() == pytest.approx(0, abs=0.1)
    assert db[np.abs(hz - 4000) > 20 * 22_050 / 1323].max() < -100


def test_the_graph_and_its_twin_agree_on_hard_frames(config: FrontEndConfig) -> None:
    frames = hard_frames()
    graph = FrontEnd(config)(frames).numpy()
    twin = pictures(frames, config)
    assert graph.shape == twin.shape == (len(frames), *config.picture_shape)
    assert graph.dtype == twin.dtype == np.float32
    np.testing.assert_allclose(graph, twin, rtol=0, atol=1e-5)


def test_a_frame_gives_the_same_picture_alone_and_in_any_batch(config: FrontEndConfig) -> None:
    frames = hard_frames()
    together = FrontEnd(config)(frames).numpy()
    for number, frame in enumerate(frames):
        alone = FrontEnd(config)(frame[np.newaxis]).numpy()[0]
        np.testing.assert_allclose(alone, together[number], rtol=0, atol=1e-6)
        twin = pictures(frame[np.newaxis], config)[0]
        np.testing.assert_array_equal(twin, pictures(frames, config)[number])


def test_hard_frames_give_finite_levels_and_silence_is_the_floor(config: FrontEndConfig) -> None:
    for levels in (FrontEnd(config)(hard_frames()).numpy(), pictures(hard_frames(), config)):
        assert np.isfinite(levels).all()
        assert levels.min() >= -1
        assert levels.max() <= 1
        assert levels[2].max() == pytest.approx(-1, abs=1e-6)


def test_a_full_scale_sine_reads_0_db_and_20_db_less_reads_20_db_less() -> None:
    config = FrontEndConfig()
    sine = np.sin(2 * np.pi * 4000 * TIME).astype(np.float32) / 10
    loud, quiet = pictures(np.stack([sine, sine / 10]), config)[:, 150].max(axis=1)
    np.testing.assert_allclose((loud - quiet) / 2 * 80, 20, atol=0.01)
    # A wide band gathers the whole main lobe: up to 10 lg(1.5 * 4096 / 2646) = 3.7 dB more.
    level = (loud - 1) / 2 * 80
    assert np.all((level > -21) & (level < -16))


def test_the_full_picture_is_that_of_the_recipe() -> None:
    assert FRONT_ENDS["full"].picture_shape == (299, 299, 3)
    assert FRONT_ENDS["small"].picture_shape == (126, 64, 3)


def test_no_band_is_empty_even_where_bands_are_narrower_than_bins(config: FrontEndConfig) -> None:
    for window in config.windows:
        assert mel_matrix(config, window).max(axis=0).min() > 0.4


def test_bands_that_are_wide_enough_are_those_of_librosa() -> None:
    config = FRONT_ENDS["small"]
    window = config.windows[0]
    theirs = librosa.filters.mel(
        sr=22_050, n_fft=fft_length(window), n_mels=72, htk=True, norm=None
    ).T[:, config.dropped_bands :]
    np.testing.assert_allclose(mel_matrix(config, window), theirs, atol=1e-5)


@pytest.mark.parametrize(
    "frames", [np.zeros(SAMPLES), np.zeros((2, 1000)), np.full((1, SAMPLES), np.nan)]
)
def test_frames_of_another_shape_or_not_finite_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"birdsong\.audio|Decode"):
        pictures(frames, FrontEndConfig())


def test_no_frames_give_no_pictures(config: FrontEndConfig) -> None:
    empty = np.zeros((0, SAMPLES), np.float32)
    assert pictures(empty, config).shape == (0, *config.picture_shape)
