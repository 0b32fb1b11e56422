"""The server against clients that are slow, many or gone, over real sockets."""

import contextlib
import selectors
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
from made_bundles import CODES, TONES_HZ, BandScorer
from made_recordings import silence, song
from made_servers import AUDIO, STRICT, all_of, connect, heard, made_bundle, metric, problem, served

from birdsong.serving.limits import Limits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with served(bundle, BandScorer(), STRICT) as client:
        yield client


def test_a_header_or_a_body_that_trickles_in_is_cut_off(client: httpx.Client) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/ogg\r\n"
    with connect(client) as header, connect(client) as pause, connect(client) as drip:
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
            answer = all_of(raw)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert code in answer
        dripping.join()


def test_a_connection_that_says_nothing_is_closed(client: httpx.Client) -> None:
    with connect(client) as raw:
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
        sockets = [stack.enter_context(connect(client)) for _ in range(1_000)]
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
            s.enter_context(connect(client))
        time.sleep(0.2)
        with connect(client) as raw:
            raw.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = all_of(raw)
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
                assert heard(answer.result()) == [CODES[i % 3]]
    assert sum(scorer.sizes) == 14
    assert max(scorer.sizes) >= 6


def test_a_full_queue_says_when_to_come_again_and_loses_nobody(bundle: Path) -> None:
    scorer = _Gated()
    with served(bundle, scorer, Limits(at_once=1, queue=2)) as client:
        scorer.go.clear()
        with _asking(client, [song("flac")] * 3) as asked:
            give_up = time.monotonic() + 20
            while metric(client, "birdsong_queue_recordings") < 2:
                assert time.monotonic() < give_up
            refused = client.post("/invocations", content=song("flac"), headers=AUDIO)
            problem(refused, 503, "busy")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/ping", timeout=2).status_code == 200
            scorer.go.set()
            assert [heard(one.result()) for one in asked] == [[CODES[0]]] * 3


def test_bytes_of_all_requests_together_are_bounded(bundle: Path) -> None:
    scorer = _Gated()
    with served(bundle, scorer, Limits(held_bytes=400_000)) as client:
        scorer.go.clear()
        scorer.busy.clear()  # set by the frames of the start
        body = song("wav", seconds=4)
        assert 200_000 < len(body) < 400_000
        with _asking(client, [body]) as asked:
            assert scorer.busy.wait(20)
            problem(client.post("/invocations", content=body, headers=AUDIO), 503, "busy")
            scorer.go.set()
            assert heard(asked[0].result()) == [CODES[0]]
        assert heard(client.post("/invocations", content=body, headers=AUDIO)) == [CODES[0]]


def test_a_client_that_hangs_up_frees_its_place(bundle: Path) -> None:
    with served(bundle, BandScorer(), Limits(at_once=1, decode_seconds=60)) as client:
        body = silence(20)
        with connect(client) as raw:
            raw.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/flac\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            give_up = time.monotonic() + 20
            while metric(client, "birdsong_working_recordings") < 1:
                assert time.monotonic() < give_up
        response = client.post("/invocations", content=song("ogg"), headers=AUDIO, timeout=10)
        assert heard(response) == [CODES[0]]


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
                httpx.post(f"{client.base_url}/invocations", content=song("flac"), timeout=60)
            )
        )
        asking.start()
        assert scorer.busy.wait(20)
        threading.Timer(4.5, scorer.go.set).start()
    asking.join(20)
    problem(answers[0], 503, "stopping")
