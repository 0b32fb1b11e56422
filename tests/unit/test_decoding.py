"""Recordings that are decoded apart: the same windows, and faults that cost one recording."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_recordings import FORMATS, encoded, remuxed, silence, song

from birdsong import audio
from birdsong.config import FeatureConfig
from birdsong.decoding import DecodeLimits, Decoder, memory_bytes, resident_bytes
from birdsong.errors import DataError

CONFIG = FeatureConfig().model_copy(update={"seconds": 86_400.0})


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def long_silence() -> bytes:
    return silence(20)


def _children(pid: int | None) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(found: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not found():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _same(ours: list[audio.Window], theirs: list[audio.Window]) -> bool:
    return len(ours) == len(theirs) and all(
        one.start_seconds == other.start_seconds and np.array_equal(one.samples, other.samples)
        for one, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("form", FORMATS)
def test_windows_from_apart_are_those_of_here_bit_for_bit(
    decoder: Decoder, form: str, tmp_path: Path
) -> None:
    data, config = song(form, seconds=12), CONFIG.model_copy(update={"window_seconds": 5})
    here = list(audio.windows(data, config))
    assert len(here) == 3
    assert _same(list(decoder.windows(data, config)), here)
    file = tmp_path / "song"
    file.write_bytes(data)
    assert _same(list(decoder.windows(file, config)), here)
    with file.open("rb") as open_file:
        open_file.read(5)
        assert _same(list(decoder.windows(open_file.fileno(), config)), here)
    overlapped = list(audio.windows(data, config, 2))
    assert _same(list(decoder.windows(bytearray(data), config, 2)), overlapped)


def test_what_a_browser_records_sounds_as_the_same_packets_in_an_ogg() -> None:
    opus = song("opus", seconds=12)
    (ogg,) = audio.windows(opus, CONFIG)
    (webm,) = audio.windows(remuxed(opus, "webm"), CONFIG)
    shortest = min(len(ogg.samples), len(webm.samples))
    assert shortest > 11.5 * CONFIG.sample_rate
    difference = ogg.samples[:shortest].astype(float) - webm.samples[:shortest]
    # Two decoders of one codec: libopus and that of FFmpeg.
    assert np.sqrt(np.mean(difference**2)) < 0.01 * audio.FULL_SCALE


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "unreadable"),
        (b"garbage" * 100, "unreadable"),
        (b"\x1a\x45\xdf\xa3" + bytes(1000), "unreadable"),
        (b"\0\0\0\x20ftypisom" + bytes(1000), "unreadable"),
        (song("webm")[:200], "unreadable"),
        (encoded(np.full(1000, np.nan, np.float32), 22_050, "float"), "not finite"),
    ],
)
def test_what_cannot_be_decoded_is_told_with_the_same_words(
    decoder: Decoder, data: bytes, word: str
) -> None:
    with pytest.raises(DataError, match=word) as here:
        list(audio.windows(data, CONFIG))
    with pytest.raises(DataError) as apart:
        list(decoder.windows(data, CONFIG))
    assert str(apart.value) == str(here.value)


def test_a_recording_longer_than_allowed_is_refused_however_small_it_is(
    decoder: Decoder, long_silence: bytes
) -> None:
    assert len(long_silence) < 4 * 2**20
    with pytest.raises(DataError, match=r"^too long:.*3600 s"):
        list(decoder.windows(long_silence, CONFIG, bounds=audio.Bounds(seconds=3600)))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_codec_that_crashes_costs_its_recording_and_no_other(
    decoder: Decoder, long_silence: bytes, number: signal.Signals
) -> None:
    def kill() -> bool:
        for child in _children(decoder.pid):
            os.kill(child, number)
            return True
        return False

    started = time.monotonic()
    killed = False

    def stopped() -> bool:
        nonlocal killed
        killed = killed or kill()
        return False

    word = "memory" if number == signal.SIGKILL else rf"crashed:.*{number.name}"
    with pytest.raises(DataError, match=word):
        list(decoder.windows(long_silence, CONFIG, stopped=stopped))
    assert killed
    assert time.monotonic() - started < 20
    assert _same(
        list(decoder.windows(song("ogg"), CONFIG)), list(audio.windows(song("ogg"), CONFIG))
    )


def test_a_codec_that_hangs_or_computes_for_ever_is_ended(long_silence: bytes) -> None:
    with Decoder(DecodeLimits(decode_seconds=1)) as decoder:
        with pytest.raises(DataError, match="too slow"):
            list(decoder.windows(long_silence, CONFIG))
        stopped: list[int] = []

        def stop() -> bool:
            for child in _children(decoder.pid) if not stopped else ():
                os.kill(child, signal.SIGSTOP)
                stopped.append(child)
            return False

        with pytest.raises(DataError, match="too slow"):
            list(decoder.windows(long_silence, CONFIG, stopped=stop))
        _wait(lambda: not _children(decoder.pid))
        assert stopped
        assert list(decoder.windows(song("flac"), CONFIG))


def test_a_recording_that_takes_more_memory_than_allowed_is_refused() -> None:
    # A window of a minute at this rate is 23 MB.
    config = FeatureConfig(sample_rate=96_000)
    with Decoder(DecodeLimits(decode_bytes=16 * 2**20)) as decoder:
        with pytest.raises(DataError, match=r"^memory:"):
            list(decoder.windows(song("wav"), config))
        assert list(decoder.windows(song("wav"), FeatureConfig(window_seconds=5, seconds=5)))


def test_a_reader_that_goes_away_ends_the_work(decoder: Decoder, long_silence: bytes) -> None:
    many = decoder.windows(song("flac", seconds=300), CONFIG)
    next(many)
    many.close()  # type: ignore[attr-defined]
    _wait(lambda: not _children(decoder.pid))
    nothing = decoder.windows(long_silence, CONFIG, stopped=lambda: True)
    assert list(nothing) == []
    _wait(lambda: not _children(decoder.pid))


def test_nothing_is_left_over_from_many_recordings(decoder: Decoder) -> None:
    def ask() -> None:
        list(decoder.windows(song("ogg", seconds=1), CONFIG))
        with pytest.raises(DataError):
            list(decoder.windows(b"garbage", CONFIG))

    ask()
    _wait(lambda: not _children(decoder.pid))
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    theirs = len(os.listdir(f"/proc/{decoder.pid}/fd"))  # noqa: PTH208
    memory = memory_bytes(decoder)
    for _ in range(30):
        ask()
    _wait(lambda: not _children(decoder.pid))
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208
    _wait(lambda: len(os.listdir(f"/proc/{decoder.pid}/fd")) == theirs)  # noqa: PTH208
    assert memory_bytes(decoder) < memory + 8 * 2**20


def test_a_child_goes_on_with_a_few_recordings_and_not_after_a_fault() -> None:
    config = CONFIG.model_copy(update={"window_seconds": 5})
    seen: list[list[int]] = []

    def check(decoder: Decoder, form: str) -> None:
        data = song(form, seconds=12)
        assert _same(list(decoder.windows(data, config)), list(audio.windows(data, config)))

    with Decoder(recordings_each=2 * len(FORMATS)) as decoder:
        check(decoder, FORMATS[0])
        (child,) = _children(decoder.pid)
        files = len(os.listdir(f"/proc/{child}/fd"))  # noqa: PTH208
        for form in (*FORMATS[1:], *FORMATS[1:]):
            check(decoder, form)
            seen.append(_children(decoder.pid))
        assert seen == [[child]] * len(seen)
        _wait(lambda: len(os.listdir(f"/proc/{child}/fd")) <= files)  # noqa: PTH208
        check(decoder, FORMATS[0])
        _wait(lambda: not _children(decoder.pid))
        check(decoder, FORMATS[0])
        assert _children(decoder.pid) not in ([], [child])
        with pytest.raises(DataError, match="unreadable"):
            list(decoder.windows(b"garbage", config))
        _wait(lambda: not _children(decoder.pid))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_what_an_earlier_recording_broke_in_a_child_costs_no_later_one(
    number: signal.Signals,
) -> None:
    config = CONFIG.model_copy(update={"window_seconds": 5})
    data = song("wav", seconds=120)
    expected = list(audio.windows(data, config))
    with Decoder(recordings_each=9) as decoder:
        for broken_after in (0, 3):
            list(decoder.windows(song("ogg"), config))
            (child,) = _children(decoder.pid)
            if broken_after == 0:
                os.kill(child, number)
            found = []
            for window in decoder.windows(data, config):
                found.append(window)
                if len(found) == broken_after:
                    os.kill(child, number)
            assert _same(found, expected)
            assert child not in _children(decoder.pid)


def test_each_recording_of_a_child_has_all_its_time() -> None:
    data, allowed = silence(0.5), set()
    with Decoder(DecodeLimits(decode_seconds=60), recordings_each=99) as decoder:
        while len(allowed) < 2:
            list(decoder.windows(data, CONFIG))
            (child,) = _children(decoder.pid)
            limits = Path(f"/proc/{child}/limits").read_text().splitlines()
            (seconds,) = (line.split()[3] for line in limits if line.startswith("Max cpu time"))
            allowed.add(seconds)
        assert allowed == {"60", "61"}


@pytest.mark.slow
def test_a_day_streams_through_in_the_memory_of_a_minute(tmp_path: Path) -> None:
    file, rate = tmp_path / "day.flac", 1_000
    noise = np.random.default_rng(0).integers(-9, 9, 3600 * rate).astype(np.int16)
    with soundfile.SoundFile(file, "w", rate, 1, format="FLAC") as sound:
        for _ in range(24):
            sound.write(noise)
    count, most = 0, 0
    before = resident_bytes(os.getpid())
    with Decoder(DecodeLimits(decode_seconds=900)) as decoder:
        for window in decoder.windows(file, CONFIG):
            count += 1
            assert window.start_seconds == pytest.approx(60 * (count - 1), abs=0.1)
            most = max(most, memory_bytes(decoder))
    grown = resident_bytes(os.getpid()) - before
    assert count == 24 * 60
    print(f"result: decoders at most {most / 2**20:.0f} MiB, this process {grown / 2**20:+.0f} MiB")
    assert most < 200 * 2**20
    assert grown < 50 * 2**20


def test_a_killed_process_is_replaced_at_the_next_recording() -> None:
    with Decoder() as decoder:
        assert list(decoder.windows(song("wav"), CONFIG))
        first = decoder.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        _wait(lambda: not _runs(first))
        assert list(decoder.windows(song("wav"), CONFIG))
        assert decoder.pid != first


def test_the_processes_end_with_a_starter_that_is_killed(
    tmp_path: Path, long_silence: bytes
) -> None:
    (tmp_path / "silence.flac").write_bytes(long_silence)
    code = (
        "import threading, time\nfrom pathlib import Path\n"
        "from birdsong.decoding import Decoder\nfrom birdsong.config import FeatureConfig\n"
        "config = FeatureConfig().model_copy(update={'seconds': 86400.0})\n"
        "decoder = Decoder()\n"
        f"work = lambda: list(decoder.windows(Path({str(tmp_path / 'silence.flac')!r}), config))\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "print(decoder.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        _wait(lambda: _children(pid))
        (child,) = _children(pid)
        owner.kill()
    _wait(lambda: not _runs(pid) and not _runs(child))


def test_the_process_loads_codecs_and_neither_tensorflow_nor_the_server() -> None:
    code = (
        "import birdsong.decoding_process, sys\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"soundfile", "soxr"} <= loaded
    assert not loaded & {"tensorflow", "keras", "fastapi", "uvicorn", "pandas", "boto3"}


def test_a_codec_that_is_broken_into_finds_neither_credentials_nor_rights(
    monkeypatch: pytest.MonkeyPatch, long_silence: bytes
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-server")
    users: list[str] = []

    with Decoder() as decoder:
        held = Path(f"/proc/{decoder.pid}/environ").read_bytes()

        def look() -> bool:
            for child in _children(decoder.pid):
                users.append(Path(f"/proc/{child}/status").read_text())
                return True
            return False

        list(decoder.windows(long_silence, CONFIG, stopped=look))
    assert b"PATH=" in held
    assert b"a-secret-of-the-server" not in held
    (status,) = users
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    expected = 65_534 if os.geteuid() == 0 else os.geteuid()
    assert lines["Uid"].split() == [str(expected)] * 4
    assert lines["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert int(lines["CapEff"], 16) == 0
        assert lines["Groups"].split() == []
