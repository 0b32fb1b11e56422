"""The server against files, words and places that are wrong or hostile."""

import base64
import io
import json
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
from made_bundles import CODES, RATE, TONES_HZ, BandScorer, tone
from made_recordings import FORMATS, silence, song, wav_header
from made_servers import AUDIO, STRICT, all_of, connect, heard, made_bundle, metric, problem, served
from prometheus_client.parser import text_string_to_metric_families

from birdsong.errors import ConfigError
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with served(bundle, BandScorer(), STRICT) as client:
        yield client


# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_heard_whatever_the_content_type_says(
    client: httpx.Client, form: str
) -> None:
    for kind in ("audio/ogg", "audio/webm;codecs=opus", "application/octet-stream"):
        response = client.post(
            "/invocations", content=song(form, TONES_HZ[1]), headers={"Content-Type": kind}
        )
        assert heard(response) == [CODES[1]]


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
    problem(client.post("/invocations", content=body, headers=AUDIO), status, code)
    assert heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]


def test_a_header_that_claims_four_gigabytes_counts_as_far_as_it_goes(
    client: httpx.Client,
) -> None:
    wave = (tone(TONES_HZ[2]) * 30_000).astype("<i2").tobytes()
    body = wav_header(RATE, 1, 2**32 - 1) + wave
    response = client.post("/invocations", content=body, headers=AUDIO)
    assert heard(response) == [CODES[2]]
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
        assert heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]
        os.kill(found[0], signal.SIGSEGV)
        asking.join(20)
        assert "SIGSEGV" in problem(answers[0], 422, "decoder-crashed")
        assert heard(client.post("/invocations", content=song("ogg"), headers=AUDIO)) == [CODES[0]]


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
    assert "BASE64" in problem(_json(client, body), 422, "json").upper()


def test_large_json_of_many_requests_takes_the_memory_of_one() -> None:
    code = (
        "import asyncio, base64, os\nfrom pathlib import Path\nfrom fastapi import Request\n"
        "from birdsong.serving import body\nfrom birdsong.serving.limits import Limits\n"
        "def most():\n"
        "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "part = base64.b64encode(os.urandom(3 * 2**18))\nlimits = Limits()\n"
        "held = body.Held(limits)\nsizes = set()\n"
        "async def ask():\n"
        "    parts = iter([b'{\"audio\": \"', *[part] * 16, b'\"}', None])\n"
        "    async def receive():\n"
        "        await asyncio.sleep(0)\n"
        "        part = next(parts)\n"
        "        return {'type': 'http.request', 'body': part or b'', 'more_body': bool(part)}\n"
        "    headers = [(b'content-type', b'application/json')]\n"
        "    request = Request({'type': 'http', 'headers': headers}, receive)\n"
        "    async with body.recording(request, limits, held) as found:\n"
        "        sizes.add(found.size)\n"
        "async def all_at_once():\n"
        "    await asyncio.gather(*[ask() for _ in range(8)])\n"
        "before = most()\nasyncio.run(all_at_once())\nprint(most() - before, *sizes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kibibytes, size = map(int, done.stdout.split())
    assert size == 12 * 2**20
    # Each body has 16 MiB, and becomes a text and a recording beside itself.
    assert kibibytes < 100 * 1024


def test_json_is_held_to_the_limit_of_the_recording(client: httpx.Client) -> None:
    data = base64.b64encode(bytes(STRICT.largest_bytes + 1)).decode()
    problem(_json(client, {"audio": data}), 413, "too-large")
    problem(_json(client, {"audio": data + "AAAA" * 1000}), 413, "too-large")


@pytest.mark.parametrize(
    "uri", ["s3://bucket/key", "gs://b/k", "file:///etc/passwd", "http://x/y", "/etc/passwd", "s3:"]
)
def test_no_place_is_read_unless_it_is_allowed(client: httpx.Client, uri: str) -> None:
    assert "--allow-uris" in problem(_json(client, {"uri": uri}), 403, "uri-not-allowed")


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
        assert len(problem(response, 415, "not-audio")) < 400


@pytest.mark.parametrize(
    "query",
    ["%00", "scores=%ff%fe", "scores=" + "a" * 5000, "a" * 5000 + "=1", "scores[]=all", "<script>"],
)
def test_hostile_queries_are_refused_in_few_words(client: httpx.Client, query: str) -> None:
    response = client.post(f"/invocations?{query}", content=song("ogg"), headers=AUDIO)
    assert len(problem(response, 400, "query")) < 500


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZZ",
    ],
)
def test_what_is_not_http_is_answered_and_closed(client: httpx.Client, request_line: bytes) -> None:
    with connect(client) as raw:
        raw.sendall(request_line + b"\r\n\r\n")
        answer = all_of(raw)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert b"Traceback" not in answer
    assert client.get("/ping").status_code == 200


# --- what it tells --------------------------------------------------------------------------------


def test_metrics_tell_requests_sound_times_and_memory(client: httpx.Client) -> None:
    before = metric(client, "birdsong_audio_seconds_total")
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
    shown = (
        "POST /invocations",
        "<td>?scores<",
        "<td>X-Amzn-",
        "413",
        "JsonRecording",
        "frame_scores",
    )
    for told in shown:
        assert told in page.text
    assert client.get("/docs.css").headers["content-type"].startswith("text/css")


def test_a_place_whose_reader_is_missing_is_told_at_the_start(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match="boto3"):
        create_app(bundle, scorer=BandScorer(), limits=Limits(allow_uris=("s3://b/",)))
