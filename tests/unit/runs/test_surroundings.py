"""What a container would get to see, decided without an engine."""

from pathlib import Path
from typing import Any

import pytest

from birdsong.errors import ConfigError
from birdsong.runs import surroundings
from birdsong.runs.surroundings import Mount, credentials, mounts, needs

REMOTE = {
    "source": "s3://bucket/birds",
    "weights": "gs://bucket/w.h5",
    "registry": "",
    "target": "",
}


def test_runs_are_writable_and_a_local_source_is_not(tmp_path: Path) -> None:
    source = tmp_path / "birds.zip"
    source.write_bytes(b"")
    weights = tmp_path / "w.h5"
    weights.write_bytes(b"")
    values = {"source": str(source), "weights": str(weights), "registry": ""}
    found = mounts(values, tmp_path / "runs")
    assert found == [
        Mount(tmp_path / "runs", tmp_path / "runs", writable=True),
        Mount(source, source),
        Mount(weights, weights),
    ]


@pytest.mark.parametrize("source", ["demo:", "s3://bucket/x", "gs://bucket/x", "", "/not/there"])
def test_what_is_no_place_of_this_machine_is_not_mounted(tmp_path: Path, source: str) -> None:
    assert len(mounts({"source": source, "weights": "imagenet"}, tmp_path)) == 1


def test_what_lies_in_the_runs_folder_needs_no_mount_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    values = {"source": str(tmp_path / "birds"), "registry": f"sqlite:///{tmp_path}/r/mlflow.db"}
    assert len(mounts(values, tmp_path)) == 1


def test_a_registry_elsewhere_is_writable(tmp_path: Path) -> None:
    values = {"registry": f"sqlite:///{tmp_path}/registry/mlflow.db"}
    found = mounts(values, tmp_path / "runs")
    assert found[1] == Mount(tmp_path / "registry", tmp_path / "registry", writable=True)
    assert (tmp_path / "registry").is_dir()


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ("data", {"source": "s3://b/x", "weights": "gs://b/w"}, {"aws", "web"}),
        ("data", {"source": "gs://b/x"}, {"gcp", "web"}),
        ("data", {"source": "demo:", "registry": "https://mlflow"}, set()),
        ("train", {"source": "s3://b/x", "weights": "none"}, set()),
        ("train", {"weights": "imagenet"}, {"web"}),
        ("train", {"weights": "gs://b/w", "source": "s3://b/x"}, {"gcp", "web"}),
        ("cloud", {"source": "s3://b/x", "registry": "sqlite:///x.db", "target": "local"}, set()),
        ("cloud", {"registry": "https://mlflow"}, {"mlflow", "aws", "gcp", "web"}),
        ("cloud", {"registry": "sqlite:///x.db", "target": "sagemaker"}, {"aws", "web"}),
        (None, {"anything": "s3://b/x"}, {"aws", "web"}),
    ],
)
def test_a_step_needs_credentials_only_for_what_its_image_talks_to(
    target: str | None, values: dict[str, Any], expected: set[str]
) -> None:
    assert needs(target, values) == expected


def test_credentials_are_those_of_the_caller_and_files_are_read_only(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / "token").write_text("")
    environment = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "token"),
        "MLFLOW_TRACKING_TOKEN": "token",
        "HTTPS_PROXY": "http://user:word@proxy",
        "PATH": "/bin",
    }
    found, files = credentials({"aws"}, environment, tmp_path)
    assert set(found) == {"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"}
    assert files == [
        Mount(tmp_path / "token", tmp_path / "token"),
        Mount(tmp_path / ".aws", surroundings.HOME / ".aws"),
    ]
    assert not any(file.writable for file in files)
    assert set(credentials({"gcp"}, environment, tmp_path)[0]) == {"GOOGLE_APPLICATION_CREDENTIALS"}
    assert set(credentials({"mlflow", "web"}, environment, tmp_path)[0]) == {
        "MLFLOW_TRACKING_TOKEN",
        "HTTPS_PROXY",
    }
    assert credentials(set(), environment, tmp_path) == ({}, [])


@pytest.mark.parametrize(
    ("values", "environment", "named"),
    [
        ({"registry": "http://localhost:5000"}, {}, "registry"),
        ({"source": "s3://b/x"}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "AWS_ENDPOINT_URL"),
        ({"source": "gs://b/x"}, {"STORAGE_EMULATOR_HOST": "localhost:4443"}, "STORAGE_EMULATOR"),
    ],
)
def test_a_service_on_the_loopback_is_refused_but_not_on_the_hosts_network(
    values: dict[str, Any], environment: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"{named}.*BIRDSONG_DOCKER_NETWORK=host"):
        surroundings.refuse_loopback(values, "bridge", environment)
    surroundings.refuse_loopback(values, "host", environment)


def test_a_service_elsewhere_or_of_no_concern_is_fine() -> None:
    surroundings.refuse_loopback({"registry": "http://mlflow:5000"}, "bridge", {})
    local = {"AWS_ENDPOINT_URL": "http://localhost:9000"}
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        surroundings.refuse_loopback({"source": "s3://birds/x"}, "bridge", local)
    # The same address, where nothing reads from there.
    surroundings.refuse_loopback({"source": "demo:", "registry": "sqlite:///x"}, "bridge", local)


def test_links_out_of_a_source_are_refused_and_links_within_are_not(tmp_path: Path) -> None:
    source = tmp_path / "birds"
    source.mkdir()
    (source / "a.wav").write_text("")
    (source / "b.wav").symlink_to(source / "a.wav")
    surroundings.refuse_links({"source": str(source)})
    (source / "c.wav").symlink_to(tmp_path / "elsewhere.wav")
    with pytest.raises(ConfigError, match=r"c\.wav is a link to .*elsewhere\.wav"):
        surroundings.refuse_links({"source": str(source)})
