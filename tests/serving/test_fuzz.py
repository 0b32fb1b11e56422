"""Mutated recordings by the thousand: nothing falls over, nothing leaks from one to the next."""

import collections
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from made_bundles import CODES, BandScorer, write_stages
from made_mutants import mutants, originals
from made_recordings import FORMATS, song
from made_servers import served

from birdsong import audio
from birdsong.bundle import write_bundle
from birdsong.config import FeatureConfig
from birdsong.decoding import DecodeLimits, Decoder, memory_bytes
from birdsong.errors import DataError
from birdsong.serving.limits import Limits

CONFIG = FeatureConfig().model_copy(update={"seconds": 86_400.0})
BOUNDS = audio.Bounds(seconds=600)
WORDS = {
    "unreadable",
    "empty",
    "not finite",
    "rate",
    "channels",
    "too long",
    "too slow",
    "memory",
    "crashed",
}
SEED = 7


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    stages = write_stages(folder / "run", golden=1)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[tuple[int, bytes]]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __iter__(self) -> "_Shared":
        return self

    def __next__(self) -> tuple[int, bytes]:
        with self._lock:
            return next(self._items)


def _numbered(count: int, seed: int) -> _Shared:
    return _Shared(enumerate(itertools.islice(mutants(originals(), seed), count)))


@pytest.mark.parametrize("count", [pytest.param(300), pytest.param(90_000, marks=pytest.mark.slow)])
def test_the_decoder_survives_every_mutant_and_hears_untouched_files_as_before(count: int) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    untouched = [song(form, seconds=0.3) for form in FORMATS]
    expected = [next(audio.windows(data, CONFIG)).samples for data in untouched]
    todo = _numbered(count, SEED)
    lock = threading.Lock()

    def work() -> float:
        slowest = 0.0
        for number, data in todo:
            began = time.monotonic()
            try:
                windows = list(decoder.windows(data, CONFIG, bounds=BOUNDS))
                word = "heard" if windows else "silent"
                for window in windows:
                    assert 0 < len(window.samples) <= 60 * CONFIG.sample_rate
            except DataError as error:
                word = str(error).partition(":")[0]
            slowest = max(slowest, time.monotonic() - began)
            with lock:
                outcomes[word] += 1
            if number % 100 == 0:
                which = number // 100 % len(untouched)
                (window,) = decoder.windows(untouched[which], CONFIG)
                assert np.array_equal(window.samples, expected[which])
        return slowest

    began = time.monotonic()
    with Decoder(DecodeLimits(decode_seconds=20)) as decoder:
        first = decoder.pid
        list(decoder.windows(untouched[0], CONFIG))
        memory = memory_bytes(decoder)
        with ThreadPoolExecutor(2) as pool:
            slowest = max(one.result() for one in [pool.submit(work) for _ in range(2)])
        assert decoder.pid == first
        grown = memory_bytes(decoder) - memory
    assert sum(outcomes.values()) == count
    assert set(outcomes) <= WORDS | {"heard", "silent"}
    assert outcomes["heard"] > count / 20
    assert grown < 64 * 2**20
    print(
        f"result: {count} mutants at the decoder in {(time.monotonic() - began) / 60:.1f} min, "
        f"slowest {slowest:.1f} s; {dict(outcomes.most_common())}; memory {grown / 2**20:+.1f} MiB"
    )


@pytest.mark.parametrize("count", [pytest.param(150), pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_server_answers_every_mutant_and_scores_untouched_files_as_before(
    bundle: Path, count: int
) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    untouched = [song(form, seconds=0.3) for form in FORMATS]
    todo = _numbered(count, SEED + 1)
    lock = threading.Lock()
    limits = Limits(longest_seconds=600, decode_seconds=20)
    with served(bundle, BandScorer(), limits, timeout=120) as client:

        def ask(data: bytes) -> httpx.Response:
            return client.post(
                "/invocations?scores=all", content=data, headers={"Content-Type": "audio/x"}
            )

        expected = [ask(data).json()["windows"] for data in untouched]
        assert all(list(windows[0]["scores"]) == CODES for windows in expected)

        def work() -> None:
            for number, data in todo:
                response = ask(data)
                assert response.status_code in (200, 413, 422), response.text
                word = "heard" if response.status_code == 200 else str(response.json()["code"])
                with lock:
                    outcomes[word] += 1
                if number % 50 == 0:
                    which = number // 50 % len(untouched)
                    assert ask(untouched[which]).json()["windows"] == expected[which]

        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(work) for _ in range(4)]:
                one.result()
        assert len(os.listdir("/proc/self/fd")) < files + 20  # noqa: PTH208
        assert client.get("/ping", timeout=2).status_code == 200
    assert sum(outcomes.values()) == count
    print(f"result: {count} mutants over HTTP: {dict(outcomes.most_common())}")
