"""The server as its users start it: by the command line, in a process of its own."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from made_bundles import CODES, RATE, tone, write_stages

from birdsong.bundle import write_bundle
from birdsong.golden import read_golden

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    stages = write_stages(folder / "run", golden=3, saved_model=True)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


@pytest.fixture
def server(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    with subprocess.Popen(
        [sys.executable, "pipeline.py", "serve", "--bundle", str(bundle), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + process.communicate()[1]
            with httpx.Client(base_url=found[0], timeout=60, trust_env=False) as client:
                _wait_for(client)
                yield process, client
        finally:
            process.kill()


def _wait_for(client: httpx.Client) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.ConnectError:
            assert time.monotonic() < give_up
        time.sleep(0.05)


def test_scores_over_http_are_those_of_the_evaluation_and_sigterm_loses_no_request(
    bundle: Path, server: tuple[subprocess.Popen[str], httpx.Client]
) -> None:
    from birdsong import audio
    from birdsong.scoring import Scorer

    process, client = server
    scorer = Scorer(bundle / "model")
    for recording in read_golden(bundle / "golden", CODES):
        data = recording.file.read_bytes()
        answer = client.post(
            "/invocations?scores=all", content=data, headers={"Content-Type": "audio/flac"}
        ).json()
        ours = scorer.window(audio.decode_flac(data))
        np.testing.assert_allclose(
            [answer["windows"][0]["scores"][code] for code in CODES], ours, atol=1e-5
        )

    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(tone(1000, 60), 20), RATE, format="FLAC")
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            client.post(
                "/invocations",
                content=buffer.getvalue(),
                headers={"Content-Type": "audio/flac"},
            )
        )
    )
    asking.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert answers[0].status_code == 200
    assert len(answers[0].json()["windows"]) == 20
    assert process.wait(40) == 0
    _, errors = process.communicate()
    assert "Traceback" not in errors


def test_sigterm_under_load_answers_all_that_was_accepted_and_refuses_the_rest(
    server: tuple[subprocess.Popen[str], httpx.Client],
) -> None:
    process, client = server
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(tone(1000, 10), 7), RATE, format="FLAC")
    statuses: list[int] = []
    refused: list[str] = []
    accepted = threading.Semaphore(0)

    def ask_on() -> None:
        while not refused:
            try:
                with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as mine:
                    response = mine.post("/invocations", content=buffer.getvalue())
            except httpx.ConnectError:
                refused.append("refused")
                return
            assert len(response.json()["windows"]) == 2
            statuses.append(response.status_code)
            accepted.release()

    asking = [threading.Thread(target=ask_on) for _ in range(5)]
    for thread in asking:
        thread.start()
    for _ in range(4):
        assert accepted.acquire(timeout=60)
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(60)
        assert not thread.is_alive()
    assert process.wait(40) == 0
    # One of each thread at least, all whole: a broken connection would have been an error.
    assert len(statuses) >= len(asking)
    assert set(statuses) == {200}
    assert refused


def test_a_folder_that_is_no_bundle_is_one_clear_error(tmp_path: Path) -> None:
    for command in (["pipeline.py", "serve", "--bundle"], ["-m", "birdsong.serving.server"]):
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "is not a bundle" in done.stderr
        assert "Traceback" not in done.stderr


def test_serving_without_a_registry_says_to_run_first(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "pipeline.py", "serve", "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pipeline.py run" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_batch_prediction_says_what_the_server_says(
    server: tuple[subprocess.Popen[str], httpx.Client], bundle: Path, tmp_path: Path
) -> None:
    _, client = server
    songs = tmp_path / "songs"
    songs.mkdir()
    said = []
    for number, form in enumerate(("FLAC", "OGG", "MP3", "WAV")):
        file = songs / f"{number}.{form.lower()}"
        wave = np.concatenate([tone(1000, 65, rate=32_000), tone(2500, 7, rate=32_000)])
        with io.BytesIO() as buffer:
            soundfile.write(buffer, wave[: 32_000 * (10 + 20 * number)], 32_000, format=form)
            file.write_bytes(buffer.getvalue())
        answer = client.post("/invocations", content=file.read_bytes()).json()
        said += [
            (str(file), window["start_seconds"], one["code"], one["score"])
            for window in answer["windows"]
            for one in window["detections"]
        ]
    command = [sys.executable, "pipeline.py", "predict", str(songs), "--bundle", str(bundle)]
    out = tmp_path / "found.csv"
    dry = subprocess.run(
        [*command, "--out", str(out), "--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "4 recordings" in dry.stdout
    assert not out.exists()
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "times real time" in done.stdout
    with out.open() as table:
        rows = list(csv.DictReader(table))
    found = [
        (row["file"], float(row["window_start_seconds"]), row["code"], float(row["score"]))
        for row in rows
    ]
    assert len(found) == len(said) >= 5
    for ours, theirs in zip(sorted(found), sorted(said), strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=1e-4)
    again = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr
