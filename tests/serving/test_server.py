"""The server over real HTTP on the loopback address: right answers, and clear ones to bad input."""

import asyncio
import contextlib
import io
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from made_bundles import CODES, RATE, TONES_HZ, BandScorer, band_scores, tone, write_stages
from made_servers import at_once, served

from birdsong import audio
from birdsong.bundle import read_bundle, write_bundle
from birdsong.calibration import Calibration
from birdsong.errors import ConfigError, DataError
from birdsong.golden import compare, read_golden
from birdsong.serving import web
from birdsong.serving.answers import heard
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits
from birdsong.serving.server import serve_bundle

AUDIO = {"Content-Type": "application/octet-stream"}
LARGEST = 40 * 2**20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    stages = write_stages(folder / "run", golden=3)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    (folder / "version.json").write_text('{"version": 7}')
    return folder / "bundle"


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with served(bundle, BandScorer(), Limits(largest_bytes=LARGEST)) as client:
        yield client


def _file(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def _problem(response: httpx.Response, status: int, code: str) -> str:
    """Check that a response is problem details, and give its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["title"]
    assert "Traceback" not in response.text
    assert len(body["detail"]) > 20
    return str(body["detail"])


def test_ping_says_ready_with_the_model_and_the_bundle(client: httpx.Client, bundle: Path) -> None:
    response = client.get("/ping")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "model": "birdsong",
        "bundle_sha256": read_bundle(bundle).sha256,
    }


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_tone_is_heard_as_its_species_with_names_threshold_and_probability(
    client: httpx.Client, which: int
) -> None:
    response = client.post("/invocations", content=_file(tone(TONES_HZ[which])), headers=AUDIO)
    assert response.status_code == 200
    answer = response.json()
    assert answer["version"] == "7"
    assert answer["runtime"] == "tensorflow"
    (window,) = answer["windows"]
    (detection,) = window["detections"]
    assert detection["code"] == CODES[which]
    assert detection["score"] > detection["threshold"] == 0.5
    # Temperature 2 draws the probability towards one half.
    assert 0.5 < detection["probability"] < detection["score"]
    assert "scores" not in window
    assert "frame_scores" not in window


def test_golden_recordings_through_http_score_as_stored(client: httpx.Client, bundle: Path) -> None:
    for recording in read_golden(bundle / "golden", CODES):
        response = client.post(
            "/invocations?scores=all",
            content=recording.file.read_bytes(),
            headers={"Content-Type": "audio/flac"},
        )
        assert compare(recording, response.json(), 0).difference <= 1e-6


def test_the_frame_of_a_detection_is_where_the_sound_is(client: httpx.Client) -> None:
    # Noise all along, the first species only between 62.5 s and 64.5 s: window 2, its frame 1.
    noise = np.random.default_rng(1).normal(0, 0.02, 80 * RATE).astype(np.float32)
    sound = tone(TONES_HZ[0], 2.0)
    noise[int(62.5 * RATE) :][: len(sound)] += sound
    answer = client.post("/invocations", content=_file(noise), headers=AUDIO).json()
    assert [window["start_seconds"] for window in answer["windows"]] == [0.0, 60.0]
    assert answer["windows"][0]["detections"] == []
    (detection,) = answer["windows"][1]["detections"]
    assert detection["frame_start_seconds"] == 60.0


def test_scores_by_frame_say_where_in_a_window_each_species_sings(client: httpx.Client) -> None:
    wave = np.random.default_rng(1).normal(0, 0.02, 17 * RATE).astype(np.float32)
    wave[5 * RATE : 10 * RATE] += tone(TONES_HZ[1], 5)
    body = _file(wave)
    (window,) = client.post("/invocations?scores=frames", content=body).json()["windows"]
    assert list(window["frame_scores"]) == CODES
    assert all(len(scores) == 4 for scores in window["frame_scores"].values())
    assert int(np.argmax(window["frame_scores"][CODES[1]])) == 1
    (all_scores,) = client.post("/invocations?scores=all", content=body).json()["windows"]
    for code in CODES:
        assert max(window["frame_scores"][code]) == pytest.approx(
            all_scores["scores"][code], abs=1e-6
        )


def test_scores_come_with_the_names_and_thresholds_behind_them(client: httpx.Client) -> None:
    body = _file(tone(TONES_HZ[0], 6))
    for asked in ("all", "frames"):
        answer = client.post(f"/invocations?scores={asked}", content=body).json()
        assert [one["code"] for one in answer["species"]] == CODES
        assert answer["species"][1]["common_name"] == "Barn | Swallow"
        assert answer["species"][1]["threshold"] == 0.5
        assert answer["highest_hz"] == RATE / 2
    assert "species" not in client.post("/invocations", content=body).json()


def test_the_settings_tell_a_page_how_to_send_and_how_much(client: httpx.Client) -> None:
    settings = client.get("/settings").json()
    assert settings["upload"] == "direct"
    assert settings["largest_bytes"] == LARGEST
    assert settings["longest_seconds"] == 24 * 3600
    assert (settings["model"], settings["version"]) == ("birdsong", "7")
    assert "Nothing" in settings["keeps"]


def test_the_page_is_sent_with_a_policy_that_lets_nothing_else_in(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>birds</title>")
    (tmp_path / "parts/page.js").write_text("'use strict'")
    (tmp_path / "secret.py").write_text("secret")
    app = FastAPI()
    web.install(app, tmp_path)

    async def get(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path)

    page = asyncio.run(get("/"))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "media-src 'self' blob:" in policy
    assert "microphone=(self)" in page.headers["permissions-policy"]
    script = asyncio.run(get("/parts/page.js"))
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["x-content-type-options"] == "nosniff"
    for outside in ("/secret.py", "/parts/../secret.py", "/parts/%2e%2e/secret.py", "/parts"):
        assert asyncio.run(get(outside)).status_code == 404


def test_ten_minutes_are_ten_windows_each_with_its_own_answer(client: httpx.Client) -> None:
    wave = np.random.default_rng(2).normal(0, 0.02, 600 * RATE).astype(np.float32)
    wave[290 * RATE :][: 10 * RATE] += tone(TONES_HZ[2], 10)
    answer = client.post(
        "/invocations?scores=all", content=_file(wave, kind="FLAC"), headers=AUDIO
    ).json()
    assert [window["start_seconds"] for window in answer["windows"]] == [
        60.0 * minute for minute in range(10)
    ]
    heard_in = [i for i, window in enumerate(answer["windows"]) if window["detections"]]
    assert heard_in == [4]
    assert all(list(window["scores"]) == CODES for window in answer["windows"])


@pytest.mark.parametrize(
    ("rate", "channels", "kind", "subtype"),
    [
        (96_000, 2, "WAV", "PCM_24"),
        (48_000, 6, "WAV", "FLOAT"),
        (8_000, 1, "WAV", "PCM_U8"),
        (32_000, 2, "OGG", "VORBIS"),
        (44_100, 1, "MP3", "MPEG_LAYER_III"),
        (192_000, 1, "FLAC", "PCM_16"),
    ],
)
def test_every_rate_channel_count_and_format_gives_the_same_species(
    client: httpx.Client, rate: int, channels: int, kind: str, subtype: str
) -> None:
    data = _file(tone(1000, 7.0, rate, channels), rate, kind, subtype)
    answer = client.post("/invocations", content=data, headers={"Content-Type": "audio/x"}).json()
    assert [detection["code"] for detection in answer["windows"][0]["detections"]] == ["aldfly"]


def test_noise_is_answered_with_no_detection(client: httpx.Client) -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, 20 * RATE)
    response = client.post("/invocations", content=_file(noise), headers=AUDIO)
    assert response.status_code == 200
    assert response.json()["windows"][0]["detections"] == []


def test_one_sample_and_a_clipped_recording_have_finite_scores(client: httpx.Client) -> None:
    for wave in (np.array([0.5]), np.clip(10 * tone(1000), -1, 1)):
        response = client.post("/invocations?scores=all", content=_file(wave), headers=AUDIO)
        assert response.status_code == 200
        assert all(0 <= score <= 1 for score in response.json()["windows"][0]["scores"].values())


def _truncated_ogg_header() -> bytes:
    return _file(tone(1000), 32_000, "OGG", "VORBIS")[:300]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b"\x00", "unreadable"),
        (b"this is not audio" * 1000, "unreadable"),
        (np.random.default_rng(4).bytes(100_000), "unreadable"),
        (_truncated_ogg_header(), "unreadable"),
        (_file(tone(1000))[:20], "unreadable"),
        (_file(np.zeros(0)), "empty"),
        (_file(np.zeros(60 * RATE)), "silent"),
        (_file(np.full(1000, np.nan), subtype="FLOAT"), "not-finite"),
        (_file(np.full(1000, np.inf), subtype="DOUBLE"), "not-finite"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt " + b"\xff" * 200, "unreadable"),
        (b"fLaC" + b"\x00" * 1000, "unreadable"),
        (b"OggS" + b"\xff" * 5000, "unreadable"),
        (b"<html><script>alert(1)</script>", "unreadable"),
    ],
)
def test_a_body_that_cannot_be_heard_is_refused_with_a_sentence(
    client: httpx.Client, body: bytes, code: str
) -> None:
    _problem(client.post("/invocations", content=body, headers=AUDIO), 422, code)
    assert client.get("/ping").status_code == 200


def test_an_ogg_cut_in_the_middle_counts_as_far_as_it_goes(client: httpx.Client) -> None:
    data = _file(tone(1000, 30), 32_000, "OGG", "VORBIS")
    response = client.post("/invocations", content=data[: len(data) // 2], headers=AUDIO)
    assert response.status_code == 200
    assert 2 < response.json()["windows"][0]["seconds"] < 30


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "multipart/form-data; boundary=x", "image/png", "x" * 5000],
)
def test_other_content_types_are_refused_and_told_what_is_accepted(
    client: httpx.Client, kind: str
) -> None:
    response = client.post("/invocations", content=b"x", headers={"Content-Type": kind})
    detail = _problem(response, 415, "not-audio")
    assert "application/octet-stream" in detail
    assert "audio/*" in response.headers["accept-post"]
    assert len(detail) < 500


def test_a_body_without_a_content_type_is_taken_as_audio(client: httpx.Client) -> None:
    response = client.post("/invocations", content=_file(tone(1000)))
    assert response.status_code == 200


def test_a_body_that_claims_to_be_too_large_is_refused_before_it_is_sent(
    client: httpx.Client,
) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
        raw.settimeout(10)
        raw.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"40 MiB" in answer


@pytest.mark.parametrize("known", [True, False])
def test_a_body_somewhat_too_large_is_told_so_once_it_is_sent(
    client: httpx.Client, known: bool
) -> None:
    body = bytes(LARGEST + 1)
    content = body if known else iter([body[: 2**20], body[2**20 :]])
    response = client.post("/invocations", content=content, headers=AUDIO)
    assert "40 MiB" in _problem(response, 413, "too-large")


def test_an_endless_body_is_cut_off(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20 * LARGEST:
            sent += 2**20
            yield bytes(2**20)

    # Either the answer arrives or the connection breaks while we are still sending.
    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        _problem(client.post("/invocations", content=endless(), headers=AUDIO), 413, "too-large")
    assert sent < 6 * LARGEST
    assert client.get("/ping").status_code == 200


def test_a_client_that_hangs_up_inside_its_body_costs_nobody_else(client: httpx.Client) -> None:
    for _ in range(5):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
            raw.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
                b"Content-Length: 1000\r\n\r\nRIFF"
            )
    response = client.post("/invocations", content=_file(tone(1000)), headers=AUDIO)
    assert response.status_code == 200


def test_unknown_routes_methods_and_queries_are_problems_too(client: httpx.Client) -> None:
    assert "/invocations" in _problem(client.get("/nowhere"), 404, "no-such-route")
    _problem(client.get("/../../etc/passwd"), 404, "no-such-route")
    response = client.get("/invocations")
    _problem(response, 405, "no-such-method")
    assert response.headers["allow"] == "POST"
    response = client.post("/invocations?scores=everything", content=b"x", headers=AUDIO)
    assert "detections" in _problem(response, 400, "query")
    response = client.post("/invocations?score=all", content=b"x", headers=AUDIO)
    assert "score: not known here" in _problem(response, 400, "query")


def test_requests_at_once_get_their_own_answers(client: httpx.Client) -> None:
    bodies = [_file(tone(TONES_HZ[i % 3], 5 + i % 4)) for i in range(24)]

    def ask(body: bytes) -> list[str]:
        answer = client.post("/invocations", content=body, headers=AUDIO).json()
        return [detection["code"] for detection in answer["windows"][0]["detections"]]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, bodies)) == [[CODES[i % 3]] for i in range(24)]


def test_a_fault_in_the_network_is_a_500_without_its_traceback(bundle: Path) -> None:
    class Broken(BandScorer):
        calls = 0

        def frames(self, frames: np.ndarray) -> np.ndarray:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("secret path /home/someone")
            return super().frames(frames)

    app = create_app(bundle, scorer=Broken())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/invocations", content=_file(tone(1000)), headers=AUDIO)

    response = asyncio.run(ask())
    app.state.listener.close()
    _problem(response, 500, "internal")
    assert "secret" not in response.text


def test_the_openapi_document_describes_answers_and_problems(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    post = document["paths"]["/invocations"]["post"]
    assert set(post["responses"]) >= {"200", "413", "415", "422"}
    assert "audio/*" in post["requestBody"]["content"]
    detection = document["components"]["schemas"]["Detection"]["properties"]
    assert all(field.get("description") for field in detection.values())


def test_a_score_equal_to_its_threshold_is_not_heard(bundle: Path) -> None:
    constant = at_once(lambda _: np.array([[0.5, 0.6, 0.1], [0.2, 0.7, 0.1]], np.float32))
    read = read_bundle(bundle)
    windows = list(audio.windows(_file(tone(1000, 8)), read.features))
    (window,) = heard(windows, read, constant)
    (detection,) = window.detections
    assert detection.code == "barswa"
    assert detection.frame_start_seconds == pytest.approx(5.0, abs=0.01)
    none = replace(read, species=tuple(replace(one, threshold=None) for one in read.species))
    (window,) = heard(windows, none, constant)
    assert window.detections == []


def test_the_server_applies_the_curve_of_the_bundle(bundle: Path) -> None:
    read = read_bundle(bundle)
    curve = Calibration(1.0, "", ((0.0, 0.5, 1.0), (0.1, 0.2, 0.3)))
    windows = audio.windows(_file(tone(1000, 8)), read.features)
    (window,) = heard(windows, replace(read, calibration=curve), at_once(band_scores))
    detection = window.detections[0]
    assert 0.5 < detection.score <= 1
    assert detection.probability == pytest.approx(0.1 + 0.2 * detection.score)


@pytest.mark.parametrize(
    ("score", "temperature", "expected"),
    [(0.5, 3.0, 0.5), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.9, 1.0, 0.9), (1e-30, 1.0, 1e-30)],
)
def test_probabilities_are_calibrated_scores(
    score: float, temperature: float, expected: float
) -> None:
    assert Calibration(temperature, "").probability(score) == pytest.approx(expected)


def test_a_damaged_bundle_is_not_served(tmp_path: Path) -> None:
    stages = write_stages(tmp_path / "run")
    write_bundle(tmp_path / "bundle", stages.model, stages.thresholds, stages.evaluation)
    (tmp_path / "bundle/thresholds.json").write_text(json.dumps({"species": {}}))
    with pytest.raises(DataError, match=r"thresholds\.json was changed"):
        create_app(tmp_path / "bundle", scorer=BandScorer())


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"Cannot listen on 127.0.0.1:{port}"):
            serve_bundle(bundle, port=port)
        assert time.monotonic() - began < 2


def test_sagemaker_which_passes_no_query_on_asks_by_its_own_header(client: httpx.Client) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    body = _file(tone(TONES_HZ[0]))
    answer = client.post("/invocations", content=body, headers={**AUDIO, name: "scores=frames"})
    (window,) = answer.json()["windows"]
    assert set(window["frame_scores"]) == set(CODES)
    answer = client.post("/invocations", content=body, headers={**AUDIO, name: "scores=many"})
    assert "scores=frames" in _problem(answer, 400, "query")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "birds.example:8080"}, 421),
        ({"Host": "127.0.0.1.birds.example"}, 421),
        ({"Host": ""}, 421),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_a_website_in_the_same_browser_gets_nothing_from_a_server_for_this_machine(
    headers: dict[str, str], status: int
) -> None:
    app = FastAPI()
    app.add_middleware(web.OnlyOurs, host="127.0.0.1")

    @app.post("/invocations")
    async def invocations() -> str:
        return "heard"

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as one:
            return await one.post("/invocations", headers=headers)

    response = asyncio.run(post())
    assert response.status_code == status
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] in ("other-host", "other-site")
