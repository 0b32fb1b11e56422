"""Register over a real MLflow registry in a SQLite file: versions, alias, refusals, retries."""

import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Metrics, Model
from made_bundles import Stages, write_stages
from made_costs import HERE, NO_SEARCH, billed

from birdsong import artifacts, registry_place
from birdsong.bundle import bundle_sha256, verify_bundle
from birdsong.cli.model import find
from birdsong.config import RegisterConfig
from birdsong.errors import ConfigError, DataError, StorageError
from birdsong.registry import CHAMPION, fetch_bundle, list_versions
from birdsong.registry_mlflow import MlflowShelf
from birdsong.registry_place import Place, client
from components.register import register

# MLflow's own code, not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making them takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(Place.parse(f"sqlite:///{file}"))
    return file


@pytest.fixture
def place(tmp_path: Path, fresh_database: Path) -> str:
    # A folder with a space and an umlaut: MLflow keeps places as URIs.
    folder = tmp_path / "Vögel am See"
    folder.mkdir()
    shutil.copyfile(fresh_database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def _register(
    stages: Stages, version: Path, place: str, gate: str = "baseline", name: str = "birdsong"
) -> dict[str, object]:
    metrics = Metrics(uri=str(version) + ".metrics")
    register.python_func(
        model=Model(uri=str(stages.model)),
        thresholds=Artifact(uri=str(stages.thresholds)),
        evaluation=Artifact(uri=str(stages.evaluation)),
        version=Artifact(uri=str(version)),
        metrics=metrics,
        model_name=name,
        gate=gate,
        registry=place,
    )
    return {**artifacts.read_json(version / "version.json"), "metrics": metrics.metadata}


def _worse(folder: Path) -> Stages:
    return write_stages(
        folder, correct=[False] * 20, baseline_correct=[True] * 20, note="a worse one"
    )


def test_an_accepted_model_becomes_the_champion_with_its_bundle_hashes_and_figures(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = write_stages(tmp_path / "run")
    found = _register(stages, tmp_path / "version", place)
    assert found["version"] == 1
    assert found["status"] == "registered"
    assert found["metrics"]["accepted"] == 1
    assert found["metrics"]["version"] == 1
    assert found["registry"] == place
    assert "version 1 is registered" in capsys.readouterr().out
    assert artifacts.verify(tmp_path / "version").kind == "version"
    assert found["bundle_sha256"] == bundle_sha256(tmp_path / "version/bundle")
    (version,) = list_versions("birdsong", place)
    assert version.aliases == (CHAMPION,)
    stored = fetch_bundle("birdsong", CHAMPION, place)
    verify_bundle(stored)
    assert tmp_path / "version" not in stored.parents
    assert fetch_bundle("birdsong", "1", place) == stored
    with sqlite3.connect(place.removeprefix("sqlite:///")) as database:
        tags = dict(database.execute("select key, value from model_version_tags").fetchall())
        logged = dict(database.execute("select key, value from metrics").fetchall())
    database.close()
    assert tags["model_sha256"] == artifacts.read_spec(stages.model).sha256
    assert logged["network_accuracy"] == 0.75


def test_a_versions_card_says_what_it_cost_and_keeps_it_when_the_bundle_comes_again(
    tmp_path: Path, place: str
) -> None:
    spent = [billed("tune", 7200, 2400, 4), billed("train", 3600, 3600)]
    first = _register(write_stages(tmp_path / "a", spent=spent), tmp_path / "v1", place)
    card = (tmp_path / "v1/model_card.md").read_text(encoding="utf-8")
    assert card.startswith((tmp_path / "v1/bundle/model_card.md").read_text(encoding="utf-8"))
    assert "| together |  | 10,800 | 6,000 | 44 % | 3.38 |" in card
    assert "cost" not in (tmp_path / "v1/bundle/model_card.md").read_text(encoding="utf-8")
    again = _register(write_stages(tmp_path / "b", spent=[NO_SEARCH, HERE]), tmp_path / "v2", place)
    assert (again["version"], again["bundle_sha256"]) == (1, first["bundle_sha256"])
    mlflow = client(Place.parse(place))
    version = mlflow.get_model_version("birdsong", "1")
    assert "| train |" in version.description
    assert "3.38" in version.description
    stored = mlflow.download_artifacts(version.run_id, "model_card.md", str(tmp_path))
    assert Path(stored).read_text(encoding="utf-8") == card
    logged = mlflow.get_run(version.run_id).data.metrics
    assert (logged["cost_usd"], logged["cost_billed_seconds"]) == (3.3833, 6000)


def test_a_refused_model_is_kept_as_a_rejected_version_and_the_champion_stays(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v1", place)
    found = _register(_worse(tmp_path / "b"), tmp_path / "v2", place)
    assert found["status"] == "rejected"
    assert found["version"] == 2
    assert "Worse than the baseline" in str(found["reason"])
    assert found["metrics"]["accepted"] == 0
    assert "rejected. Worse than the baseline" in capsys.readouterr().out
    newest, oldest = list_versions("birdsong", place)
    assert (newest.version, newest.status, newest.aliases) == (2, "rejected", ())
    assert (oldest.version, oldest.status, oldest.aliases) == (1, "registered", (CHAMPION,))


def test_the_alias_moves_to_the_newest_accepted_version_and_not_back_on_a_retry(
    tmp_path: Path, place: str
) -> None:
    first, second = write_stages(tmp_path / "a"), write_stages(tmp_path / "b", note="second")
    _register(first, tmp_path / "v1", place)
    _register(second, tmp_path / "v2", place, gate="champion")
    again = _register(first, tmp_path / "v1 again", place)
    assert again["version"] == 1
    assert again["status"] == "registered"
    versions = list_versions("birdsong", place)
    assert [(one.version, one.aliases) for one in versions] == [(2, (CHAMPION,)), (1, ())]


def test_a_name_alone_is_its_champion_else_the_newest_version_that_was_let_in(
    tmp_path: Path, place: str
) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v1", place)
    _register(write_stages(tmp_path / "b", note="second"), tmp_path / "v2", place)
    _register(_worse(tmp_path / "c"), tmp_path / "v3", place)
    mlflow = client(Place.parse(place))
    mlflow.set_registered_model_alias("birdsong", CHAMPION, "1")
    assert find(None, "birdsong", place, tmp_path)[1] == "1"
    mlflow.delete_registered_model_alias("birdsong", CHAMPION)
    assert find(None, "birdsong", place, tmp_path)[1] == "2"
    with pytest.raises(ConfigError, match="no model named 'other'"):
        find(None, "other", place, tmp_path)


def test_the_champion_gate_compares_with_the_stored_champion(tmp_path: Path, place: str) -> None:
    good = write_stages(tmp_path / "a", correct=[True] * 20)
    # Better than the baseline, worse than the champion.
    middling = write_stages(
        tmp_path / "b",
        correct=[True] * 8 + [False] * 12,
        baseline_correct=[False] * 20,
        note="middling",
    )
    assert _register(good, tmp_path / "v1", place, gate="champion")["status"] == "registered"
    found = _register(middling, tmp_path / "v2", place, gate="champion")
    assert found["status"] == "rejected"
    assert "1.000 of the champion on 20 test" in str(found["reason"])


def test_a_rejected_bundle_may_be_accepted_later_and_keeps_its_number(
    tmp_path: Path, place: str
) -> None:
    stages = _worse(tmp_path / "a")
    assert _register(stages, tmp_path / "v", place)["status"] == "rejected"
    found = _register(stages, tmp_path / "v", place, gate="none")
    assert (found["version"], found["status"]) == (1, "registered")
    (version,) = list_versions("birdsong", place)
    assert version.aliases == (CHAMPION,)


@pytest.mark.parametrize("dies_in", ["add", "point", "mark"])
def test_a_death_half_way_leaves_one_version_after_the_next_attempt(
    tmp_path: Path, place: str, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = write_stages(tmp_path / "a")
    method = getattr(MlflowShelf, dies_in)

    def die(*arguments: object) -> None:
        method(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowShelf, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            _register(stages, tmp_path / "version", place)
    assert not (tmp_path / "version").exists()
    found = _register(stages, tmp_path / "version", place)
    assert (found["version"], found["status"]) == (1, "registered")
    (version,) = list_versions("birdsong", place)
    assert version.aliases == (CHAMPION,)


def test_names_have_versions_of_their_own(tmp_path: Path, place: str) -> None:
    stages = write_stages(tmp_path / "a")
    assert _register(stages, tmp_path / "v1", place)["version"] == 1
    assert _register(stages, tmp_path / "v2", place, name="owls")["version"] == 1
    assert len(list_versions("owls", place)) == 1
    assert list_versions("nobody", place) == []


def test_an_unknown_version_is_an_error_that_lists_those_there_are(
    tmp_path: Path, place: str
) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v1", place)
    with pytest.raises(ConfigError, match=r"no version 9\. There are: 1 \(registered, champion\)"):
        fetch_bundle("birdsong", 9, place)
    with pytest.raises(ConfigError, match="alias 'best'"):
        fetch_bundle("birdsong", "best", place)
    with pytest.raises(ConfigError, match="no model named 'owls'"):
        fetch_bundle("owls", "1", place)


def test_a_stored_bundle_that_was_changed_is_not_handed_out(tmp_path: Path, place: str) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v1", place)
    stored = fetch_bundle("birdsong", "1", place)
    (stored / "thresholds.json").write_text("{}")
    with pytest.raises(DataError, match=r"thresholds\.json was changed"):
        fetch_bundle("birdsong", "1", place)


def test_bundles_are_found_after_the_folder_of_runs_was_moved(tmp_path: Path, place: str) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v1", place)
    folder = Path(place.removeprefix("sqlite:///")).parent
    moved = folder.rename(tmp_path / "elsewhere")
    stored = fetch_bundle("birdsong", CHAMPION, f"sqlite:///{moved / 'mlflow.db'}")
    assert moved in stored.parents


def test_an_empty_or_strange_registry_is_told_before_any_work(tmp_path: Path) -> None:
    stages = Stages(*(tmp_path / "absent" for _ in range(3)))
    for address, told in [
        ("", "registry is empty"),
        ("  ", "registry is empty"),
        ("runs/mlflow.db", "sqlite:///FILE"),
        ("postgresql://host/db", "sqlite:///FILE"),
        ("sqlite:///", "sqlite:///FILE"),
        ("http://", "sqlite:///FILE"),
    ]:
        with pytest.raises(ConfigError, match=told):
            _register(stages, tmp_path / "version", address)


def test_a_registry_that_is_not_there_says_to_run_first(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'none.db'}"
    assert list_versions("birdsong", address) == []
    with pytest.raises(ConfigError, match="no registry at"):
        fetch_bundle("birdsong", CHAMPION, address)
    assert list(tmp_path.iterdir()) == []


def test_a_locked_database_is_told_within_seconds(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_place, "_BUSY_SECONDS", 0.5)
    other = sqlite3.connect(place.removeprefix("sqlite:///"))
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match=r"locked.*Close that program"):
            _register(write_stages(tmp_path / "a"), tmp_path / "v", place)
    finally:
        other.close()
    assert not (tmp_path / "v").exists()


def test_a_kill_while_the_database_is_made_does_not_spoil_it(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'registry/mlflow.db'}"
    program = (
        "import sys; from birdsong.registry_place import Place\n"
        "from birdsong.registry_mlflow import MlflowShelf\n"
        "place = Place.parse(sys.argv[1])\n"
        "with place.locked(): MlflowShelf(place)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, address])
    try:
        give_up = time.monotonic() + 60
        while not any((tmp_path / "registry").glob("*mlflow.db*writing")):
            assert time.monotonic() < give_up
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "registry/mlflow.db").exists()
    _register(write_stages(tmp_path / "a"), tmp_path / "v", address)
    assert [entry.version for entry in list_versions("birdsong", address)] == [1]


def test_a_half_made_database_says_what_to_move_away(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "half.db") as database:
        database.execute("create table experiments (experiment_id integer)")
    database.close()
    with pytest.raises(StorageError, match="Move that file away"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v", f"sqlite:///{tmp_path / 'half.db'}")


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "photo.db").write_bytes(b"\xff\xd8" * 5000)
    with pytest.raises(StorageError, match="not an MLflow database"):
        list_versions("birdsong", f"sqlite:///{tmp_path / 'photo.db'}")


def test_a_database_of_a_newer_mlflow_is_told(tmp_path: Path, place: str) -> None:
    with sqlite3.connect(place.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    database.close()
    with pytest.raises(StorageError, match="written by another version of MLflow"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v", place)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        _register(
            write_stages(tmp_path / "a"), tmp_path / "v", f"sqlite:///{tmp_path / 'file/mlflow.db'}"
        )


def test_a_server_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"MLflow server http://127\.0\.0\.1:9.*Check that it"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v", "http://127.0.0.1:9")


@pytest.mark.slow
def test_a_server_keeps_versions_and_hands_out_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"),
            *("--artifacts-destination", str(tmp_path / "store")),
        ],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        _wait_for(port, 300)
        address = f"http://127.0.0.1:{port}"
        stages = write_stages(tmp_path / "a")
        assert _register(stages, tmp_path / "v1", address)["version"] == 1
        assert _register(stages, tmp_path / "v2", address)["version"] == 1
        out, errors = capfd.readouterr()
        assert errors == ""
        assert "http" not in out
        stored = fetch_bundle("birdsong", CHAMPION, address)
        assert tmp_path / "cache" in stored.parents
        verify_bundle(stored)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.5)


def test_nothing_is_registered_when_the_evaluation_is_of_another_model(
    tmp_path: Path, place: str
) -> None:
    one, other = write_stages(tmp_path / "a"), write_stages(tmp_path / "b", note="other")
    with pytest.raises(DataError, match="was made with another"):
        _register(Stages(one.model, one.thresholds, other.evaluation), tmp_path / "v", place)
    assert list_versions("birdsong", place) == []


def test_every_output_of_the_component_is_described() -> None:
    for output in register.component_spec.outputs.values():
        assert output.description


def test_version_json_has_the_contract_of_the_stage(tmp_path: Path, place: str) -> None:
    _register(write_stages(tmp_path / "a"), tmp_path / "v", place)
    version = json.loads((tmp_path / "v/version.json").read_text())
    assert set(version) == {
        "name",
        "version",
        "status",
        "reason",
        "registry",
        "uri",
        "bundle_sha256",
        "arn",
        "approval",
    }
    assert artifacts.read_spec(tmp_path / "v").settings == RegisterConfig(
        registry=place
    ).model_dump(mode="json")
