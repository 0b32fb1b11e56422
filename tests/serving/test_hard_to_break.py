"""The server against senders that are slow, many, wrong or hostile, over real sockets."""

import base64
import contextlib
import io
import json
import os
import re
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from made_bundles import CODES, RATE, TONES_HZ, BandScorer, tone, write_stages
from made_recordings import FORMATS, silence, song, wav_header
from made_servers import served
from prometheus_client.parser import text_string_to_metric_families

from birdsong.bundle import write_bundle
from birdsong.errors import ConfigError
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits

AUDIO = {"Content-Type": "application/octet-stream"}
LIMITS = Limits(
    largest_bytes=8 * 2**20,
    longest_seconds=600,
    most_channels=16,
    decode_seconds=20,
    header_seconds=1,
    stall_seconds=1,
    body_seconds=3,
    connections=1_200,
    queue=2_000,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    stages = write_stages(folder / "run", golden=1)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with served(bundle, BandScorer(), LIMITS) as client:
        yield client


def _heard(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [one["code"] for one in response.json()["windows"][0]["detections"]]


def _problem(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


def _connect(client: httpx.Client) -> socket.socket:
    found = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    found.settimeout(20)
    return found


def _all_of(raw: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: raw.recv(65536), b""))
    return b""


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_heard_whatever_the_content_type_says(
    client: httpx.Client, form: str
) -> None:
    for kind in ("audio/ogg", "audio/webm;codecs=opus", "application/octet-stream"):
        response = client.post(
            "/invocations", content=song(form, TONES_HZ[1]), headers={"Content-Type": kind}
        )
        assert _heard(response) == [CODES[1]]


def _many_channels() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((100, 255)), 8000, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (silence(1), 413, "too-long"),
        (silence(1, "OGG", 8_000), 413, "too-long"),
        (wav_header(1, 1, 100) + bytes(100), 422, "rate"),
        (wav_header(10_000_000, 1, 100) + bytes(100), 422, "rate"),
        (_many_channels(), 422, "channels"),
        (wav_header(22_050, 1, 2**32 - 1), 422, "empty"),
        (wav_header(22_050, 65_535, 2**32 - 1) + bytes(100), 422, "unreadable"),
        (song("webm")[:300], 422, "unreadable"),
        (song("mp4")[:300], 422, "unreadable"),
        (song("ogg").replace(b"vorbis", b"wombat"), 422, "unreadable"),
    ],
)
def test_files_that_lie_or_explode_are_refused_with_their_own_words(
    client: httpx.Client, body: bytes, status: int, code: str
) -> None:
    _problem(client.post("/invocations", content=body, headers=AUDIO), status, code)
    assert _heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]


def test_a_header_that_claims_four_gigabytes_counts_as_far_as_it_goes(
    client: httpx.Client,
) -> None:
    wave = (tone(TONES_HZ[2]) * 30_000).astype("<i2").tobytes()
    body = wav_header(RATE, 1, 2**32 - 1) + wave
    response = client.post("/invocations", content=body, headers=AUDIO)
    assert _heard(response) == [CODES[2]]
    assert response.json()["windows"][0]["seconds"] == pytest.approx(6, abs=0.1)


def test_a_decoder_that_is_killed_costs_one_request(bundle: Path) -> None:
    with served(bundle, BandScorer(), Limits(decode_seconds=30)) as client:
        app_pid = os.getpid()
        answers: list[httpx.Response] = []
        long = silence(20)
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/invocations", content=long, headers=AUDIO))
        )
        asking.start()
        give_up = time.monotonic() + 20
        while not (found := _decoders(app_pid)):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert _heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]
        os.kill(found[0], signal.SIGSEGV)
        asking.join(20)
        assert "SIGSEGV" in _problem(answers[0], 422, "decoder-crashed")
        assert _heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]


def _decoders(pid: int) -> list[int]:
    """Processes that decode a recording for a server in this process."""
    found = []
    for child in _children(pid):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"birdsong.decoding_process" in command:
            found += _children(child)
    return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(one) for task in tasks.iterdir() for one in (task / "children").read_text().split()]


# --- JSON and places ------------------------------------------------------------------------------


def _json(client: httpx.Client, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        "/invocations", content=content, headers={"Content-Type": "application/json"}
    )


def test_a_recording_in_json_is_heard_as_its_bytes_are(client: httpx.Client) -> None:
    data = song("ogg", TONES_HZ[1])
    told = _json(client, {"audio": base64.b64encode(data).decode()}).json()
    plain = client.post("/invocations", content=data, headers=AUDIO).json()
    assert told["windows"] == plain["windows"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        {"audio": "!!!"},
        {"audio": 1},
        {"audio": "AAAA", "uri": "s3://b/k"},
        {"audio": "AAAA", "more": 1},
        {"uri": "x" * 5000},
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"audio": "\\ud800"}',
        b'{"audio": NaN}',
        b"1" * 10_000,
    ],
)
def test_json_that_is_none_or_says_something_else_is_refused(
    client: httpx.Client, body: object
) -> None:
    assert "BASE64" in _problem(_json(client, body), 422, "json").upper()


def test_json_is_held_to_the_limit_of_the_recording(client: httpx.Client) -> None:
    data = base64.b64encode(bytes(LIMITS.largest_bytes + 1)).decode()
    _problem(_json(client, {"audio": data}), 413, "too-large")
    _problem(_json(client, {"audio": data + "AAAA" * 1000}), 413, "too-large")


@pytest.mark.parametrize(
    "uri", ["s3://bucket/key", "gs://b/k", "file:///etc/passwd", "http://x/y", "/etc/passwd", "s3:"]
)
def test_no_place_is_read_unless_it_is_allowed(client: httpx.Client, uri: str) -> None:
    assert "--allow-uris" in _problem(_json(client, {"uri": uri}), 403, "uri-not-allowed")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://birds/a/x.ogg", True),
        ("gs://songs/calls-2026.ogg", True),
        ("s3://birds-of-others/a/x.ogg", False),
        ("s3://birds/../others/x.ogg", False),
        ("s3://birds/./x.ogg", False),
        ("s3://birds/%2e%2e/x.ogg", False),
        ("s3://birds/x\n.ogg", False),
        ("gs://songs/other.ogg", False),
        ("S3://birds/a", False),
    ],
)
def test_an_allowed_beginning_allows_its_bucket_and_nothing_beside(uri: str, allowed: bool) -> None:
    from birdsong.serving.body import _is_allowed

    limits = Limits(allow_uris="s3://birds,gs://songs/calls")  # type: ignore[arg-type]
    assert _is_allowed(uri, limits.allow_uris) is allowed


def test_limits_come_from_flags_then_the_environment_and_say_what_is_wrong() -> None:
    import argparse

    from birdsong.serving.limits import add_flags, from_flags

    parser = argparse.ArgumentParser()
    add_flags(parser)
    environment = {"BIRDSONG_LARGEST_BYTES": "5000", "BIRDSONG_QUEUE": "3"}
    given = parser.parse_args(
        ["--queue", "7", "--allow-uris", "s3://a/b", "--allow-uris", "gs://c"]
    )
    limits = from_flags(given, environment)
    assert (limits.largest_bytes, limits.queue) == (5000, 7)
    assert limits.allow_uris == ("s3://a/b", "gs://c/")
    for wrong in ({"BIRDSONG_QUEUE": "many"}, {"BIRDSONG_ALLOW_URIS": "/etc"}):
        with pytest.raises(ConfigError, match=r"Limits: .*--help"):
            from_flags(parser.parse_args([]), wrong)


# --- hostile words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "audio/" + "x" * 8000},
        {"Content-Type": "../../etc/passwd"},
        {"Content-Type": "audio/ogg; charset=\xff"},
        {"Content-Type": "multipart/form-data; boundary=" + "-" * 500},
        {"Content-Disposition": 'attachment; filename="../../etc/passwd\x7f$(reboot).ogg"'},
        {"Content-Encoding": "gzip"},
        {"X-Amzn-SageMaker-Custom-Attributes": "trace=1,tenant=x"},
        {"Host": "evil.example"},
    ],
)
def test_hostile_headers_get_a_clear_answer(client: httpx.Client, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in (AUDIO | headers).items()}
    response = client.post("/invocations", content=song("ogg"), headers=encoded)
    assert response.status_code in (200, 415)
    if response.status_code == 415:
        assert len(_problem(response, 415, "not-audio")) < 400


@pytest.mark.parametrize(
    "query",
    ["%00", "scores=%ff%fe", "scores=" + "a" * 5000, "a" * 5000 + "=1", "scores[]=all", "<script>"],
)
def test_hostile_queries_are_refused_in_few_words(client: httpx.Client, query: str) -> None:
    response = client.post(f"/invocations?{query}", content=song("ogg"), headers=AUDIO)
    assert len(_problem(response, 400, "query")) < 500


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZZ",
    ],
)
def test_what_is_not_http_is_answered_and_closed(client: httpx.Client, request_line: bytes) -> None:
    with _connect(client) as raw:
        raw.sendall(request_line + b"\r\n\r\n")
        answer = _all_of(raw)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert b"Traceback" not in answer
    assert client.get("/ping").status_code == 200


# --- slow and many --------------------------------------------------------------------------------


def test_a_header_or_a_body_that_trickles_in_is_cut_off(client: httpx.Client) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/ogg\r\n"
    with _connect(client) as header, _connect(client) as pause, _connect(client) as drip:
        header.sendall(head)
        pause.sendall(head + b"Content-Length: 1000\r\n\r\nOggS")
        drip.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")

        def drops() -> None:
            with contextlib.suppress(OSError):
                for _ in range(40):
                    drip.sendall(b"1\r\nx\r\n")
                    time.sleep(0.2)

        dripping = threading.Thread(target=drops)
        dripping.start()
        for raw, code in ((header, b"slow-header"), (pause, b"slow-body"), (drip, b"slow-body")):
            answer = _all_of(raw)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert code in answer
        dripping.join()


def test_a_connection_that_says_nothing_is_closed(client: httpx.Client) -> None:
    with _connect(client) as raw:
        assert raw.recv(10) == b""


def test_a_reader_that_does_not_read_its_answers_is_cut_off(client: httpx.Client) -> None:
    ask = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(20)
        raw.connect((client.base_url.host, client.base_url.port or 80))

        def ask_until_cut_off() -> None:
            while True:
                raw.sendall(100 * ask)

        with pytest.raises(ConnectionError):
            ask_until_cut_off()
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    "recordings", [pytest.param(50), pytest.param(1_000, marks=pytest.mark.slow)]
)
def test_a_thousand_connections_at_once_are_all_answered(
    client: httpx.Client, recordings: int
) -> None:
    body = song("flac", TONES_HZ[1], seconds=0.3)
    listen = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: audio/flac\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers: dict[socket.socket, bytes] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        sockets = [stack.enter_context(_connect(client)) for _ in range(1_000)]
        for number, raw in enumerate(sockets):
            raw.sendall(listen if number % (1_000 // recordings) == 0 else ping)
            answers[raw] = b""
            waiting.register(raw, selectors.EVENT_READ)
        slowest = 0.0
        give_up = time.monotonic() + 300
        while waiting.get_map():
            assert time.monotonic() < give_up
            began = time.monotonic()
            assert client.get("/ping", timeout=20).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            for key, _ in waiting.select(0.2):
                raw = key.fileobj
                assert isinstance(raw, socket.socket)
                came = raw.recv(65536)
                answers[raw] += came
                if not came:
                    waiting.unregister(raw)
    assert [int(answer.split(b" ", 2)[1]) for answer in answers.values()] == [200] * 1_000
    assert sum(CODES[1].encode() in answer for answer in answers.values()) == recordings
    print(f"result: {recordings} recordings at once, slowest ping {slowest:.2f} s")


def test_connections_beyond_the_limit_are_told_to_come_again(bundle: Path) -> None:
    with served(bundle, BandScorer(), Limits(connections=3)) as client, contextlib.ExitStack() as s:
        for _ in range(3):
            s.enter_context(_connect(client))
        time.sleep(0.2)
        with _connect(client) as raw:
            raw.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = _all_of(raw)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 5" in answer
        assert b'"connections"' in answer


class _Gated(BandScorer):
    """Waits where it is told to, and remembers how much came at a time."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.sizes: list[int] = []

    def frames(self, frames: np.ndarray) -> np.ndarray:
        self.sizes.append(len(frames))
        self.busy.set()
        assert self.go.wait(60)
        return super().frames(frames)


@contextlib.contextmanager
def _asking(client: httpx.Client, bodies: list[bytes]) -> Iterator[list[Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        yield [
            pool.submit(client.post, "/invocations", content=body, headers=AUDIO) for body in bodies
        ]


def _metric(client: httpx.Client, name: str) -> float:
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    raise AssertionError(name)


def test_frames_of_requests_that_wait_are_scored_together_and_each_gets_its_own(
    bundle: Path,
) -> None:
    scorer = _Gated()
    with served(bundle, scorer, Limits(at_once=8)) as client:
        scorer.sizes.clear()
        scorer.go.clear()
        scorer.busy.clear()
        bodies = [song("flac", TONES_HZ[i % 3]) for i in range(7)]
        with _asking(client, bodies) as asked:
            assert scorer.busy.wait(20)
            time.sleep(1.5)
            scorer.go.set()
            for i, answer in enumerate(asked):
                assert _heard(answer.result()) == [CODES[i % 3]]
    assert sum(scorer.sizes) == 14
    assert max(scorer.sizes) >= 6


def test_a_full_queue_says_when_to_come_again_and_loses_nobody(bundle: Path) -> None:
    scorer = _Gated()
    with served(bundle, scorer, Limits(at_once=1, queue=2)) as client:
        scorer.go.clear()
        with _asking(client, [song("flac")] * 3) as asked:
            give_up = time.monotonic() + 20
            while _metric(client, "birdsong_queue_recordings") < 2:
                assert time.monotonic() < give_up
            refused = client.post("/invocations", content=song("flac"), headers=AUDIO)
            _problem(refused, 503, "busy")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/ping", timeout=2).status_code == 200
            scorer.go.set()
            assert [_heard(one.result()) for one in asked] == [[CODES[0]]] * 3


def test_bytes_of_all_requests_together_are_bounded(bundle: Path) -> None:
    scorer = _Gated()
    with served(bundle, scorer, Limits(held_bytes=400_000)) as client:
        scorer.go.clear()
        body = song("wav", seconds=4)
        assert 200_000 < len(body) < 400_000
        with _asking(client, [body]) as asked:
            assert scorer.busy.wait(20)
            _problem(client.post("/invocations", content=body, headers=AUDIO), 503, "busy")
            scorer.go.set()
            assert _heard(asked[0].result()) == [CODES[0]]
        assert _heard(client.post("/invocations", content=body, headers=AUDIO)) == [CODES[0]]


def test_a_client_that_hangs_up_frees_its_place(bundle: Path) -> None:
    with served(bundle, BandScorer(), Limits(at_once=1, decode_seconds=60)) as client:
        body = silence(20)
        with _connect(client) as raw:
            raw.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/flac\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            give_up = time.monotonic() + 20
            while _metric(client, "birdsong_working_recordings") < 1:
                assert time.monotonic() < give_up
        response = client.post("/invocations", content=song("ogg"), headers=AUDIO, timeout=10)
        assert _heard(response) == [CODES[0]]


def test_what_is_not_finished_when_the_grace_ends_is_given_back_with_a_reason(
    bundle: Path,
) -> None:
    scorer = _Gated()
    answers: list[httpx.Response] = []
    with served(bundle, scorer, Limits(grace_seconds=5)) as client:
        scorer.go.clear()
        scorer.busy.clear()
        asking = threading.Thread(
            target=lambda: answers.append(
                # Not by the client, which is closed before the server.
                httpx.post(f"{client.base_url}/invocations", content=song("flac"), headers=AUDIO)
            )
        )
        asking.start()
        assert scorer.busy.wait(20)
        threading.Timer(4.5, scorer.go.set).start()
    asking.join(20)
    _problem(answers[0], 503, "stopping")


# --- what it tells --------------------------------------------------------------------------------


def test_metrics_tell_requests_sound_times_and_memory(client: httpx.Client) -> None:
    before = _metric(client, "birdsong_audio_seconds_total")
    client.post("/invocations", content=song("ogg"), headers=AUDIO)
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    assert found["birdsong_audio_seconds_total",] - before == pytest.approx(6, abs=0.1)
    key = ("birdsong_requests_total", ("path", "/invocations"), ("status", "200"))
    assert found[key] >= 1
    for process in ("server", "decoders"):
        assert found["birdsong_memory_bytes", ("process", process)] > 10 * 2**20
    for name in ("decode", "inference", "request"):
        assert found[f"birdsong_{name}_seconds_count",] >= 1
    client.get("/" + "x" * 50)
    assert "xxx" not in client.get("/metrics").text


def test_the_page_of_the_interface_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|style=|https?://", page.text)
    for told in ("POST /invocations", "scores", "413", "JsonRecording", "frame_scores"):
        assert told in page.text
    assert client.get("/docs.css").headers["content-type"].startswith("text/css")


def test_a_place_whose_reader_is_missing_is_told_at_the_start(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match="boto3"):
        create_app(bundle, scorer=BandScorer(), limits=Limits(allow_uris=("s3://b/",)))
