"""The one definition of a recording's samples, on the hardest files that come."""

import io
import resource
import struct
import sys

import numpy as np
import pytest
import soundfile
import soxr

from birdsong import audio
from birdsong.config import FeatureConfig
from birdsong.errors import ConfigError, DataError

CONFIG = FeatureConfig()
LONG = FeatureConfig(seconds=3600)
FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


def make_file(samples: np.ndarray, rate: int, form: str = "WAV", subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def make_song(seconds: float, rate: int, level: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(round(seconds * rate))
    time = np.arange(round(seconds * rate)) / rate
    song = np.sin(2 * np.pi * 3000 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    return (level * song + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def decode(data: bytes, config: FeatureConfig = CONFIG) -> list[audio.Window]:
    return list(audio.windows(data, config))


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000])
def test_every_format_and_rate_gives_the_same_seconds_at_full_level(form, subtype, rate):
    data = make_file(make_song(7, rate), rate, form, subtype)
    (window,) = decode(data)
    assert window.samples.dtype == np.int16
    assert np.abs(window.samples).max() == 32_767
    assert len(window.samples) / 22_050 == pytest.approx(7, abs=0.1)  # MP3 pads
    assert window.start_seconds == pytest.approx(0, abs=0.001)


def test_96_khz_keeps_a_tone_where_it_is():
    time = np.arange(96_000 * 2) / 96_000
    (window,) = decode(make_file(0.5 * np.sin(2 * np.pi * 5000 * time), 96_000))
    spectrum = np.abs(np.fft.rfft(window.samples[:22_050]))
    assert spectrum.argmax() == 5000


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100, 48_000, 96_000])
def test_the_stream_gives_the_samples_of_resampling_in_one_shot(rate):
    wave = make_song(9.7, rate)
    (window,) = decode(make_file(wave, rate))
    whole = soxr.resample(wave, rate, 22_050, quality="HQ")
    expected = np.rint(whole * np.float32(32_767 / np.abs(whole).max())).astype(np.int16)
    expected = np.trim_zeros(expected)
    assert len(window.samples) == len(expected)
    assert np.array_equal(window.samples, expected)


def test_stereo_is_the_mean_of_its_channels():
    left, right = make_song(2, 22_050), make_song(2.5, 22_050)[: 2 * 22_050]
    stereo = decode(make_file(np.stack([left, right], axis=1), 22_050))
    mono = decode(make_file((left + right) * np.float32(0.5), 22_050))
    assert np.array_equal(stereo[0].samples, mono[0].samples)


def test_opposite_channels_cancel_to_silence():
    wave = make_song(2, 32_000)
    assert decode(make_file(np.stack([wave, -wave], axis=1), 32_000)) == []


def test_six_channels_are_mixed_like_two():
    wave = make_song(1, 22_050)
    six = np.stack([wave] * 6, axis=1)
    difference = decode(make_file(six, 22_050))[0].samples.astype(int) - decode(
        make_file(wave, 22_050)
    )[0].samples.astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_silence_gives_no_window(form, subtype):
    assert decode(make_file(np.zeros(64_000, np.float32), 32_000, form, subtype)) == []


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 48_000, 96_000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_samples_give_one_finite_frame(rate, count):
    (window,) = decode(make_file(np.full(count, 0.25, np.float32), rate))
    frames = audio.frames(window.samples, CONFIG)
    assert frames.shape == (1, 110_250)
    assert np.isfinite(frames).all()
    assert np.abs(frames).max() == 1


def test_a_clipped_recording_stays_within_16_bits():
    wave = np.clip(make_song(3, 32_000, level=8), -1, 1)
    (window,) = decode(make_file(wave, 32_000, "WAV", "PCM_16"))
    assert np.abs(window.samples.astype(int)).max() == 32_767


def test_samples_far_beyond_full_scale_are_brought_to_it():
    (window,) = decode(make_file(make_song(1, 22_050) * np.float32(1e30), 22_050))
    assert np.abs(window.samples.astype(int)).max() == 32_767


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [22_050, 32_000])
def test_a_sample_that_is_not_finite_is_an_error(value, rate):
    wave = make_song(3, rate)
    wave[rate * 2] = value
    with pytest.raises(DataError, match=r"^not finite:"):
        decode(make_file(wave, rate))


def test_channels_whose_sum_overflows_are_an_error():
    wave = np.full((100, 2), 3e38, np.float32)
    with pytest.raises(DataError, match=r"^not finite:"):
        decode(make_file(wave, 22_050))


def test_ten_minutes_come_as_ten_windows_that_join_up():
    rate = 8_000
    windows = decode(make_file(make_song(610, rate), rate, "FLAC", "PCM_16"), LONG)
    assert [round(window.start_seconds) for window in windows] == [60 * i for i in range(11)]
    assert {len(window.samples) for window in windows[:10]} <= set(range(1_322_990, 1_323_001))
    assert len(windows[10].samples) == pytest.approx(220_500, abs=50)


def test_memory_does_not_grow_with_the_length():
    # A generator of windows holds one of them; two hours of float samples would be 635 MB.
    rate = 8_000
    minute = make_file(make_song(60, rate), rate, "WAV", "PCM_16")[44:]
    data = _wav_header(len(minute) * 120, rate) + minute * 120
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for _ in audio.windows(data, FeatureConfig(seconds=7200)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert count == 120
    assert grown * (1024 if sys.platform == "linux" else 1) < 100e6


def _wav_header(size: int, rate: int) -> bytes:
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate,
                         rate * 2, 2, 16)  # fmt: skip
    return header + struct.pack("<4sI", b"data", size)


def test_only_the_first_seconds_are_kept_when_asked():
    wave = make_song(30, 32_000)
    config = FeatureConfig(seconds=12)
    (window,) = decode(make_file(wave, 32_000), config)
    assert len(window.samples) == pytest.approx(12 * 22_050, abs=5)
    whole = decode(make_file(wave[: 32_000 * 13], 32_000), config)
    assert np.array_equal(window.samples, whole[0].samples)


def test_a_window_of_silence_between_songs_is_left_out():
    wave = np.concatenate([make_song(50, 8_000), np.zeros(8_000 * 75), make_song(20, 8_000)])
    windows = decode(make_file(wave, 8_000), LONG)
    assert [round(window.start_seconds) for window in windows] == [0, 125]


@pytest.mark.parametrize("silent_seconds", [3, 60, 90])
def test_a_song_after_long_digital_silence_is_kept_whole(silent_seconds):
    song = make_song(50, 22_050)
    wave = np.concatenate([np.zeros(22_050 * silent_seconds, np.float32), song])
    (alone,), (late,) = decode(make_file(song, 22_050)), decode(make_file(wave, 22_050))
    assert late.start_seconds == pytest.approx(silent_seconds, abs=0.001)
    assert np.array_equal(late.samples, alone.samples)


def test_the_ringing_of_a_loud_end_is_not_blown_up_to_a_window():
    # The filter's tail of the first window reaches into the silence behind it.
    wave = np.concatenate([make_song(60, 32_000), np.zeros(32_000 * 30)])
    windows = decode(make_file(wave, 32_000), LONG)
    assert len(windows) <= 2
    assert all(len(window.samples) < 2_000 for window in windows[1:])


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
@pytest.mark.parametrize("kept", [0, 1, 10, 40])
def test_an_empty_or_headless_file_is_unreadable(form, subtype, kept):
    data = make_file(make_song(1, 32_000), 32_000, form, subtype)[:kept]
    with pytest.raises(DataError, match=r"^(unreadable|empty):"):
        decode(data)


def test_a_header_without_samples_is_empty():
    with pytest.raises(DataError, match=r"^empty:"):
        decode(make_file(np.zeros(0, np.float32), 32_000))


@pytest.mark.parametrize(("form", "subtype"), [FORMATS[0], *FORMATS[2:]])
def test_a_file_that_ends_early_counts_as_far_as_it_goes(form, subtype):
    data = make_file(make_song(20, 32_000), 32_000, form, subtype)
    (window,) = decode(data[: len(data) // 2])
    assert 5 < len(window.samples) / 22_050 < 12


def test_a_flac_file_that_ends_early_is_unreadable():
    data = make_file(make_song(20, 32_000), 32_000, "FLAC", "PCM_16")
    with pytest.raises(DataError, match=r"^unreadable:"):
        decode(data[: len(data) // 2])


def test_a_header_that_claims_more_samples_than_there_are_is_not_believed():
    samples = (make_song(3, 32_000) * 32_767).astype("<i2").tobytes()
    (window,) = decode(_wav_header(0x7FFFFF00, 32_000) + samples)
    assert len(window.samples) / 22_050 == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_header_with_an_impossible_rate_is_refused(rate):
    with pytest.raises(DataError, match=r"^rate:.*samples per second"):
        decode(make_file(make_song(1, 22_050), rate))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(500), b"<html>" * 99])
def test_other_files_are_unreadable(data):
    with pytest.raises(DataError, match=r"^unreadable:"):
        decode(data)


@pytest.mark.parametrize("seed", range(5))
def test_a_stored_window_written_as_flac_gives_itself_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal(40_000 + seed) * np.exp(rng.normal(0, 3))
    wave[:300] *= 1e-7
    for window in decode(make_file(wave.astype(np.float32), 32_000), CONFIG):
        (again,) = decode(audio.encode_flac(window.samples, 22_050))
        assert np.array_equal(again.samples, window.samples)
        assert again.start_seconds == 0
        assert np.array_equal(
            audio.decode_flac(audio.encode_flac(window.samples, 22_050)), window.samples
        )


def test_quiet_ends_are_trimmed_and_the_start_is_told():
    wave = np.concatenate([np.zeros(22_050), make_song(2, 22_050), np.zeros(11_025)])
    (window,) = decode(make_file(wave.astype(np.float32), 22_050))
    assert window.start_seconds == pytest.approx(1, abs=0.001)
    assert len(window.samples) == pytest.approx(2 * 22_050, abs=3)
    assert window.samples[0] != 0
    assert window.samples[-1] != 0


def test_bytes_path_and_open_file_give_the_same(tmp_path):
    data = make_file(make_song(2, 32_000), 32_000)
    path = tmp_path / "song.wav"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = [decode(data), list(audio.windows(path, CONFIG)), list(audio.windows(file, CONFIG))]
    for windows in found[1:]:
        assert np.array_equal(windows[0].samples, found[0][0].samples)


def test_overlapping_windows_begin_with_the_end_of_the_one_before():
    rate = CONFIG.sample_rate
    wave = make_song(150, rate)
    wave[rate * 55 : rate * 58] = 0
    data = make_file(wave, rate)
    plain = list(audio.windows(data, LONG))
    starts = [window.start_seconds for window in plain]
    assert starts == pytest.approx([0, 60, 120], abs=1e-3)
    found = list(audio.windows(data, LONG, overlap_seconds=10))
    # The second begins after the silence that its first seconds would be... at 50 s it sings.
    assert [window.start_seconds for window in found] == pytest.approx([0, 50, 100], abs=1e-3)
    assert len(found[-1].samples) / rate == pytest.approx(50, abs=1e-3)
    np.testing.assert_array_equal(found[0].samples, plain[0].samples)
    late = list(audio.windows(data, LONG, overlap_seconds=4))
    # From 56 s on there is silence until 58 s: the second window begins where it ends.
    assert late[1].start_seconds == pytest.approx(58, abs=1e-3)


def test_an_overlap_adds_no_window_that_holds_nothing_new():
    rate = CONFIG.sample_rate
    for seconds in (59, 60, 110, 111):
        data = make_file(make_song(seconds, rate), rate)
        found = list(audio.windows(data, LONG, overlap_seconds=10))
        assert len(found) == (1 if seconds <= 60 else 2 if seconds <= 110 else 3)
        end = found[-1].start_seconds + len(found[-1].samples) / rate
        assert end == pytest.approx(seconds, abs=1e-3)
    silent = np.concatenate([make_song(60, rate), np.zeros(rate * 5, np.float32)])
    silent[rate * 50 :] = 0
    assert len(list(audio.windows(make_file(silent, rate), LONG, overlap_seconds=8))) == 1
    with pytest.raises(ConfigError, match=r"overlap is 60 s.*less than a window"):
        list(audio.windows(make_file(silent, rate), LONG, overlap_seconds=60))


@pytest.mark.parametrize(
    ("samples", "count"), [(0, 1), (1, 1), (110_250, 1), (110_251, 2), (1_323_000, 12)]
)
def test_frames_cover_every_sample_and_pad_with_zeros(samples, count):
    window = np.full(samples, -32_767, np.int16)
    frames = audio.frames(window, CONFIG)
    assert frames.shape == (count, 110_250)
    assert frames.dtype == np.float32
    assert frames.reshape(-1)[:samples].tolist() == [-1.0] * samples
    assert not frames.reshape(-1)[samples:].any()


def test_frames_stay_within_one_even_for_the_lowest_16_bit_value():
    assert audio.frames(np.full(5, -32_768, np.int16), CONFIG).min() == -1


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((10, 2), np.int16),
        np.zeros(10, np.float32),
        np.zeros(1_323_001, np.int16),
    ],
)
def test_frames_of_anything_but_a_window_are_an_error(samples):
    with pytest.raises(DataError, match=r"frames: got"):
        audio.frames(samples, CONFIG)
