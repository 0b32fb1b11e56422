"""Half an hour of mixed load on a server process: memory stays flat, answers stay the same."""

import collections
import contextlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from made_bundles import TONES_HZ, write_stages
from made_mutants import mutants, originals
from made_recordings import song
from prometheus_client.parser import text_string_to_metric_families

from birdsong.bundle import write_bundle
from birdsong.scoring import TOLERANCE

ROOT = Path(__file__).parents[2]
MINUTES = float(os.environ.get("BIRDSONG_SOAK_MINUTES", "30"))
CLIENTS = 6


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[httpx.Client]:
    stages = write_stages(folder / "run", golden=1, saved_model=True)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    command = [sys.executable, "-m", "birdsong.serving.server", str(folder / "bundle")]
    with subprocess.Popen(
        [*command, "--port", "0", "--longest-seconds", "900", "--stall-seconds", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            with httpx.Client(base_url=found[0], timeout=300, trust_env=False) as client:
                give_up = time.monotonic() + 120
                while True:
                    with contextlib.suppress(httpx.ConnectError):
                        client.get("/ping")
                        break
                    assert time.monotonic() < give_up
                    time.sleep(0.1)
                yield client
            process.terminate()
            assert process.wait(120) == 0
        finally:
            process.kill()


def _memory(client: httpx.Client) -> tuple[float, float]:
    found = {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "birdsong_memory_bytes"
    }
    return found["server"] / 2**20, found["decoders"] / 2**20


class _Load:
    """Clients that send what comes into their heads, and check what they know."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.furthest = 0.0
        lengths = (1, 6, 20, 90)
        forms = ("ogg", "mp3", "flac", "wav", "webm")
        self.known = [
            (data, self._windows(data))
            for i, (form, seconds) in enumerate(itertools.product(forms, lengths))
            for data in [song(form, TONES_HZ[i % 3], seconds)]
        ]
        self.until = time.monotonic() + 60 * MINUTES

    def _windows(self, data: bytes, query: str = "") -> Any:
        response = self.client.post(f"/invocations{query}", content=data)
        self.outcomes[str(response.status_code)] += 1
        return response.json().get("windows")

    def run(self, seed: int) -> None:
        source = random.Random(seed)
        broken = mutants(originals(), seed)
        try:
            while time.monotonic() < self.until:
                choice = source.random()
                data, expected = source.choice(self.known)
                if choice < 0.6:
                    self._compare(self._windows(data), expected)
                elif choice < 0.7:
                    self._windows(data, "?scores=frames")
                elif choice < 0.9:
                    self._windows(next(broken))
                elif choice < 0.95:
                    self._hang_up(data)
                else:
                    assert self.client.get("/ping").status_code == 200
        except Exception as error:
            self.faults.append(repr(error))

    def _compare(self, answer: Any, expected: Any) -> None:
        """The same answer, but for the last bits that the frames of a pass leave to each other."""
        told, scores = zip(*map(_apart, (answer, expected)), strict=True)
        if told[0] != told[1]:
            self.faults.append(f"{told[0]} instead of {told[1]}")
            return
        furthest = float(np.abs(np.subtract(*scores)).max(initial=0))
        self.furthest = max(self.furthest, furthest)
        if furthest > TOLERANCE:
            self.faults.append(f"scores by {furthest:.2g} otherwise")

    def _hang_up(self, data: bytes) -> None:
        base = self.client.base_url
        with contextlib.suppress(OSError), socket.create_connection((base.host, base.port)) as raw:
            raw.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
            )
            raw.sendall(data[: len(data) // 2])
        self.outcomes["hung up"] += 1


def _apart(windows: Any) -> tuple[Any, list[float]]:
    """What an answer says, without its scores and probabilities; and these."""
    found: list[float] = []

    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(one) for one in part]
        if not isinstance(part, dict):
            return part
        found.extend(part[name] for name in ("score", "probability") if name in part)
        return {
            name: without(one) for name, one in part.items() if name not in ("score", "probability")
        }

    return without(windows), found


@pytest.mark.slow
def test_half_an_hour_under_load_leaves_memory_flat_and_answers_the_same(tmp_path: Path) -> None:
    with _server(tmp_path) as client:
        load = _Load(client)
        threads = [threading.Thread(target=load.run, args=(seed,)) for seed in range(CLIENTS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        samples: list[tuple[float, float, float]] = []
        while time.monotonic() < load.until:
            time.sleep(5)
            samples.append(((time.monotonic() - began) / 60, *_memory(client)))
        for thread in threads:
            thread.join()
        assert client.get("/ping", timeout=20).status_code == 200
        slopes = _told(load, np.array(samples))
        began = time.monotonic()
    print(f"result: ended {time.monotonic() - began:.1f} s after SIGTERM")
    assert load.faults == []
    for name, (slope, median) in slopes.items():
        # Over the time of the test, against what it has.
        assert slope * MINUTES < 0.05 * median + 4, name


def _told(load: _Load, samples: npt.NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """Print the figures; slope in MiB a minute and median in MiB of each kind of process."""
    minutes, *memory = samples.T
    # Pools and caches fill in the beginning.
    warm = minutes > MINUTES / 4
    found = {
        name: (float(np.polyfit(minutes[warm], values[warm], 1)[0]), float(np.median(values[warm])))
        for name, values in zip(("server", "decoders"), memory, strict=True)
    }
    told = "; ".join(
        f"{name} {median:.0f} MiB, {60 * slope:+.1f} MiB an hour"
        for name, (slope, median) in found.items()
    )
    print(
        f"result: {sum(load.outcomes.values())} requests in {MINUTES:g} min "
        f"({json.dumps(load.outcomes)}); {told}; scores at most {load.furthest:.2g} from those of "
        "the quiet server"
    )
    return found
