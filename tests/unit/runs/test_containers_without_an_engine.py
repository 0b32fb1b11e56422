"""What is told where there is no engine, before a run starts."""

import os
import socket
from pathlib import Path

import pytest

from birdsong.errors import ConfigError
from birdsong.runs import containers, record


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The address of an engine that is not there."""
    place = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}")
    return place


def test_no_engine_is_told_with_what_to_do(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"No container engine answers at .*--runner subprocess"):
        containers.connect()


def test_a_socket_that_nobody_serves_is_told(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    with pytest.raises(ConfigError, match="No container engine answers"):
        containers.connect()


@pytest.mark.skipif(os.getuid() == 0, reason="root may use every socket")
def test_a_socket_that_may_not_be_used_is_told(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        place.chmod(0o000)
        with pytest.raises(ConfigError, match="may not use the container engine"):
            containers.connect()


def test_an_engine_on_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(ConfigError, match="does not see the folders of this one"):
        containers.connect()


def test_a_folder_of_runs_without_containers_asks_no_engine(place: Path, tmp_path: Path) -> None:
    runs = [record.Run("one", "p", tmp_path, {}), record.Run("two", "p", tmp_path, {})]
    assert containers.left_if_any(tmp_path, runs) == []
    runs[1].runner = "docker"
    assert containers.left_if_any(tmp_path, runs) == []  # the engine is gone, and so are they
