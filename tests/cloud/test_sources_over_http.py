"""Ingest from s3:// and gs:// over HTTP, against moto's server and gcp-storage-emulator."""

import hashlib
import http.server
import io
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from birdsong import clouds, demo_data, recordings, sources, storage
from birdsong.config import IngestConfig
from birdsong.errors import DataError, StorageError

pytestmark = [
    # The SDKs leave pooled connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    # It is about messages of gRPC, which storage does not use.
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
]

KINDS = ("s3", "gs")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Addresses of the two servers."""
    ports = {kind: free_port() for kind in KINDS}
    tools = Path(sys.executable).parent
    commands = {
        "s3": [tools / "moto_server", "-H", "127.0.0.1", "-p", str(ports["s3"])],
        "gs": [
            *(tools / "gcp-storage-emulator", "start", "--in-memory", "--host=127.0.0.1"),
            f"--port={ports['gs']}",
        ],
    }
    processes = {
        kind: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for kind, command in commands.items()
    }
    try:
        for kind in KINDS:
            wait_for(ports[kind], processes[kind])
        yield {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(10)


def clear_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    # NO_GCE_CHECK is read when Google's library is imported, which may have been long ago.
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{free_port()}")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)


@pytest.fixture
def cloud(servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a user whose credentials and endpoints are set."""
    clear_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", servers["s3"])
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", servers["gs"])
    monkeypatch.setattr(clouds, "_WAITS_SECONDS", (0.05, 0.05))
    forget_clients()
    yield servers
    forget_clients()


def forget_clients() -> None:
    clouds._s3_of.cache_clear()
    clouds._gs_of.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_data.write(tmp_path_factory.mktemp("made") / "birds", species=2, recordings=3)


@pytest.fixture(scope="module")
def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
        archive.writestr("test_soundscapes/large.bin", b"\x00\x01" * 20_000_000, 0)
    return buffer.getvalue()


def put(kind: str, bucket: str, objects: dict[str, bytes]) -> None:
    if kind == "s3":
        client = clouds.s3()
        client.create_bucket(Bucket=bucket)
        for key, data in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)
    else:
        made = clouds.gs().create_bucket(bucket)
        for key, data in objects.items():
            made.blob(key).upload_from_string(data)


def run(source: str, tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    config = IngestConfig(source=source, max_bad_share=0.0, **settings)
    recordings.ingest(str(tmp_path / "out/rec"), str(tmp_path / "out/audit.html"), config)
    return pq.read_table(tmp_path / "out/rec/recordings.parquet").to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_a_bucket_is_ingested_and_its_recordings_are_read(
    cloud, kind: str, folder: Path, tmp_path: Path
) -> None:
    objects = {
        f"clef/{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*.*")
    }
    objects["clef/"] = b""
    objects["clefother/train_short_audio/a/x.flac"] = b"another prefix"
    put(kind, f"folder-{kind}", objects)
    rows = run(f"{kind}://folder-{kind}/clef", tmp_path)
    assert len(rows) == 6
    for row in rows:
        data = storage.read_recording(row, tmp_path)
        assert data == (folder / "train_short_audio" / row["id"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_zip_in_a_bucket_is_read_by_ranges_and_never_whole(
    cloud, kind: str, packed: bytes, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    put(kind, f"zip-{kind}", {"birdclef.zip": packed})
    ranges: list[int] = []
    plain = storage.read_range

    def counted(uri: str, offset: int, size: int) -> bytes:
        ranges.append(size)
        return plain(uri, offset, size)

    monkeypatch.setattr(storage, "read_range", counted)
    monkeypatch.setattr(sources, "read_range", counted)
    rows = run(f"{kind}://zip-{kind}/birdclef.zip", tmp_path)
    assert len(rows) == 6
    # 40 MB of the zip are no recordings; of them only the blocks around its directory are read.
    assert sum(ranges) < len(packed) - 30_000_000
    ranges.clear()
    row = rows[0]
    data = storage.read_recording(row, tmp_path)
    assert data == (folder / "train_short_audio" / row["id"]).read_bytes()
    assert ranges == [row["size"]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_of_a_bucket_needs_no_bucket(
    cloud, kind: str, packed: bytes, tmp_path: Path, monkeypatch
) -> None:
    put(kind, f"snap-{kind}", {"b.zip": packed})
    rows = run(f"{kind}://snap-{kind}/b.zip", tmp_path, snapshot=True)
    clear_credentials(monkeypatch, tmp_path)
    forget_clients()
    for row in rows:
        data = storage.read_recording(row, tmp_path / "out/rec")
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_bucket_prefix_or_zip_is_one_clear_error(
    cloud, kind: str, tmp_path: Path
) -> None:
    put(kind, f"empty-{kind}", {"other/readme.txt": b"x", "broken.zip": b"PK" + bytes(999)})
    for place, error, says in (
        (f"{kind}://no-such-bucket-{kind}/x", StorageError, "does not exist"),
        (f"{kind}://empty-{kind}/x", DataError, "holds no recordings"),
        (f"{kind}://empty-{kind}/none.zip", StorageError, "does not exist"),
        (f"{kind}://empty-{kind}/broken.zip", DataError, "not a whole zip"),
    ):
        with pytest.raises(error, match=says):
            run(place, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "says"), [("s3", "aws configure"), ("gs", "gcloud auth")])
def test_missing_credentials_are_told_with_what_to_do(
    kind: str, says: str, tmp_path: Path, monkeypatch
) -> None:
    clear_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients()
    with pytest.raises(StorageError, match=says):
        run(f"{kind}://bucket/prefix", tmp_path)
    forget_clients()


def test_a_server_that_cannot_be_reached_is_told(cloud, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="cannot be reached"):
        run("s3://bucket/prefix", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_fetched_whole_from_a_bucket(cloud, kind: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    put(kind, f"weights-{kind}", {"w.h5": data, "none.h5": b""})
    sha256 = hashlib.sha256(data).hexdigest()
    got = storage.fetch(f"{kind}://weights-{kind}/w.h5", tmp_path / "w.h5", sha256)
    assert got.read_bytes() == data
    assert storage.fetch(f"{kind}://weights-{kind}/none.h5", tmp_path / "n.h5").read_bytes() == b""
    with pytest.raises(StorageError, match="does not exist"):
        storage.fetch(f"{kind}://weights-{kind}/other.h5", tmp_path / "o.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.h5", "w.h5"]


class _Flaky(http.server.BaseHTTPRequestHandler):
    """An S3 server whose first answers break off in the middle."""

    body = bytes(range(256)) * 400
    broken = 2

    def do_GET(self) -> None:
        self.send_response(206)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if type(self).broken:
            type(self).broken -= 1
            self.wfile.write(self.body[:1000])
            self.close_connection = True
        else:
            self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


def test_an_answer_that_breaks_off_is_asked_for_again(cloud, monkeypatch) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert storage.read_range("s3://bucket/key", 0, len(_Flaky.body)) == _Flaky.body
        assert _Flaky.broken == 0
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_reads_a_recording_from_an_allowed_place(
    kind: str, cloud: dict[str, str], tmp_path: Path
) -> None:
    from made_bundles import CODES, BandScorer, write_stages
    from made_recordings import song
    from made_servers import served

    from birdsong.bundle import write_bundle
    from birdsong.serving.limits import Limits

    stages = write_stages(tmp_path / "run", golden=1)
    write_bundle(tmp_path / "bundle", stages.model, stages.thresholds, stages.evaluation)
    bucket = f"asked-{kind}"
    put(kind, bucket, {"in/a b.ogg": song("ogg"), "in/large.wav": bytes(2**20), "out.ogg": b""})
    limits = Limits(largest_bytes=2**20 - 1, allow_uris=(f"{kind}://{bucket}/in/", f"{kind}://no"))
    with served(tmp_path / "bundle", BandScorer(), limits) as client:

        def ask(uri: str) -> Any:
            return client.post("/invocations", json={"uri": uri}).json()

        answer = ask(f"{kind}://{bucket}/in/a b.ogg")
        assert [one["code"] for one in answer["windows"][0]["detections"]] == [CODES[0]]
        for uri, status, code in (
            (f"{kind}://{bucket}/in/absent.ogg", 422, "uri-unreadable"),
            (f"{kind}://no/x.ogg", 422, "uri-unreadable"),
            (f"{kind}://{bucket}/in/large.wav", 413, "too-large"),
            (f"{kind}://{bucket}/out.ogg", 403, "uri-not-allowed"),
        ):
            problem = ask(uri)
            assert (problem["status"], problem["code"]) == (status, code), problem
            assert "test" not in problem["detail"].split()  # the credentials here
