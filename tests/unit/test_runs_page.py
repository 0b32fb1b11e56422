"""The server of the page of runs: what it tells, and what it refuses."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvicorn
from made_runs import make_run
from pyarrow import parquet

from birdsong.errors import ConfigError, DataError
from birdsong.runs import headline, processes, record
from birdsong.runs.record import State, Step, read
from birdsong.runs.stopping import signal_engine
from birdsong.runs_page import actions, previews
from birdsong.runs_page.export import export
from birdsong.runs_page.server import TOKEN_HEADER, create_app, read_log
from birdsong.runs_page.store import Store

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@dataclass
class Answer:
    """What the server answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class Page:
    """Real requests over a socket, whose paths nobody tidies up on the way."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self._ask("GET", path, None, headers or {})

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        headers = {"Content-Type": "application/json"} | dict(headers or {})
        return self._ask("POST", path, json.dumps(body).encode(), headers)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            named = {"Host": f"127.0.0.1:{self.port}"} | dict(headers)
            for name, value in named.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())


@contextlib.contextmanager
def served(app: Any) -> Iterator[Page]:
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Page(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def page(runs: Path) -> Iterator[Page]:
    with served(create_app(runs, token=TOKEN)) as client:
        yield client


def test_a_run_is_listed_with_the_version_that_it_registered(tmp_path: Path) -> None:
    run = make_run(tmp_path, model_name="birds")
    run.steps["register"] = Step(name="register", metrics={"version": 3.0, "accepted": 1.0})
    assert headline.of(run)["version"] == "birds 3"
    run.steps["register"].metrics["accepted"] = 0.0
    assert headline.of(run)["version"] == "birds 3 rejected"
    del run.steps["register"]
    assert headline.of(run)["version"] is None


def test_a_record_is_listed_without_being_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    cut = make_run(tmp_path)
    long = make_run(tmp_path, source="x" * 50_000)
    place = cut.folder / "run.json"
    place.write_bytes(place.read_bytes()[:-100])
    read = record.read
    asked: list[str] = []
    monkeypatch.setattr(record, "read", lambda place: asked.append(place.name) or read(place))
    listed = {one["id"]: one for one in Store(tmp_path).summaries()}
    assert listed[run.id] == headline.of(run)
    assert listed[cut.id]["state"] == "UNREADABLE"
    assert listed[long.id]["source"] == "x" * 50_000
    assert sorted(asked) == sorted([cut.id, long.id])


def test_the_list_tells_state_source_and_accuracy_with_its_interval(page: Page, runs: Path) -> None:
    run = make_run(runs)
    found = page.get("/api/runs").json()["runs"]
    assert [one["id"] for one in found] == [run.id]
    assert (found[0]["state"], found[0]["source"]) == ("SUCCEEDED", "demo:")
    assert found[0]["metrics"] == {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95}
    assert (found[0]["done_count"], found[0]["step_count"]) == (3, 3)


def test_a_folder_that_does_not_exist_yet_is_an_empty_list(tmp_path: Path) -> None:
    with served(create_app(tmp_path / "none")) as client:
        assert client.get("/api/runs").json()["runs"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}', "\x00", "null"])
def test_a_record_that_cannot_be_read_is_told_and_breaks_nothing(
    page: Page, runs: Path, text: str
) -> None:
    run = make_run(runs)
    (runs / "0-broken").mkdir()
    (runs / "0-broken" / "run.json").write_text(text)
    found = {one["id"]: one for one in page.get("/api/runs").json()["runs"]}
    assert found["0-broken"]["state"] == "UNREADABLE"
    assert found["0-broken"]["error"]
    assert found[run.id]["state"] == "SUCCEEDED"
    assert page.get("/api/runs/0-broken").status_code == 404


def test_a_run_whose_process_is_gone_is_shown_as_died(page: Page, runs: Path) -> None:
    run = make_run(runs, State.RUNNING)
    assert page.get(f"/api/runs/{run.id}").json()["state"] == "RUNNING"
    place = runs / run.id / "run.json"
    record = json.loads(place.read_text()) | {"process_started": "another boot:1"}
    place.write_text(json.dumps(record))
    assert page.get("/api/runs").json()["runs"][0]["state"] == "DIED"
    assert page.get(f"/api/runs/{run.id}").json()["steps"][1]["state"] == "DIED"


def test_a_changed_record_is_read_again_and_an_unchanged_one_is_not_sent_again(
    page: Page, runs: Path
) -> None:
    run = make_run(runs)
    address = f"/api/runs/{run.id}"
    first = page.get(address)
    again = page.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    place = runs / run.id / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"note": "changed"}))
    answer = page.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert answer.json()["note"] == "changed"


def test_the_graph_joins_steps_by_the_artifacts_that_they_pass_on(page: Page, runs: Path) -> None:
    run = make_run(runs)
    graph = page.get(f"/api/runs/{run.id}").json()["graph"]
    takers = {(one["step"], one["name"]): one["takers"] for one in graph["artifacts"]}
    assert takers["ingest", "out"] == ["train"]
    assert takers["ingest", "page"] == []
    assert ["ingest", "train"] in graph["after"]


def test_the_graph_stands_before_anything_ran_also_through_nested_pipelines(runs: Path) -> None:
    from birdsong.runs_page.dag import graph

    run = make_run(runs, State.RUNNING)
    dataset = {"artifactType": {"schemaTitle": "system.Dataset"}}
    given = {"taskOutputArtifact": {"producerTask": "inner", "outputArtifactKey": "made"}}
    selector = {"producerSubtask": "ingest", "outputArtifactKey": "later"}
    ir = {
        "root": {
            "dag": {
                "tasks": {
                    "inner": {"componentRef": {"name": "comp-inner"}},
                    "last": {
                        "componentRef": {"name": "comp-evaluate-threshold"},
                        "dependentTasks": ["inner"],
                        "inputs": {"artifacts": {"data": given}},
                    },
                }
            }
        },
        "components": {
            "comp-inner": {
                "dag": {
                    "tasks": {"ingest": {"componentRef": {"name": "comp-ingest"}}},
                    "outputs": {"artifacts": {"made": {"artifactSelectors": [selector]}}},
                }
            },
            "comp-ingest": {"outputDefinitions": {"artifacts": {"later": dataset}}},
            "comp-evaluate-threshold": {},
        },
    }
    found = {(one["step"], one["name"]): one for one in graph(run, ir)["artifacts"]}
    assert found["ingest", "later"]["takers"] == ["evaluate-threshold"]
    assert found["ingest", "later"]["type"] == "system.Dataset"


def test_a_running_step_tells_how_far_it_is(page: Page, runs: Path) -> None:
    run = make_run(runs, State.RUNNING)
    told = page.get(f"/api/runs/{run.id}").json()["progress"]["train"]
    assert (told["done"], told["total"], told["unit"]) == (3, 4, "recordings")


def test_a_log_is_followed_from_where_one_was(page: Page, runs: Path) -> None:
    run = make_run(runs)
    address = f"/api/runs/{run.id}/log/train"
    first = page.get(address).json()
    assert first["text"].startswith("train begins\nüber")
    with (runs / run.id / "logs/train.log").open("a") as log:
        log.write("more\n")
    assert page.get(f"{address}?start={first['end']}").json()["text"] == "more\n"
    last = page.get(f"{address}?most=5").json()
    assert (last["text"], last["end"]) == ("more\n", last["size"])
    assert page.get(f"/api/runs/{run.id}/log/nothing").json()["size"] == 0


@pytest.mark.parametrize("sign", ["ü", "€", "🐦"])
def test_a_character_that_is_half_written_waits_for_its_other_half(
    tmp_path: Path, sign: str
) -> None:
    log = tmp_path / "log"
    whole = f"a{sign}".encode()
    for count in range(2, len(whole)):
        log.write_bytes(whole[:count])
        assert read_log(log, 0, 100)["text"] == "a"
        assert read_log(log, 0, 100)["end"] == 1
    log.write_bytes(whole)
    assert read_log(log, 1, 100)["text"] == sign


def test_html_of_an_artifact_is_sent_under_a_sandbox(page: Page, runs: Path) -> None:
    run = make_run(runs)
    answer = page.get(f"/api/file/{run.id}/artifacts/train/page")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy.replace("default-src 'none'", "")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_itself_runs_no_code_but_its_own(page: Page) -> None:
    for address in ("/", "/static/app.js", "/api/runs"):
        policy = page.get(address).headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "RUN/../../secret.txt",
        "RUN/link.txt",
        "RUN/out/secret.txt",
        "%2fetc/passwd",
        "//etc/passwd",
        "RUN%00/run.json",
    ],
)
@pytest.mark.parametrize("kind", ["file", "preview"])
def test_nothing_outside_of_the_runs_folder_is_sent(
    page: Page, runs: Path, path: str, kind: str
) -> None:
    run = make_run(runs)
    (runs.parent / "secret.txt").write_text("secret")
    (runs / run.id / "link.txt").symlink_to(runs.parent / "secret.txt")
    (runs / run.id / "out").symlink_to(runs.parent)
    answer = page.get(f"/api/{kind}/{path.replace('RUN', run.id)}")
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text
    assert answer.text.count("secret") == 0


@pytest.mark.parametrize("name", ["..", "%2e%2e", ".", "..%2f..", "%2fetc"])
def test_a_run_is_named_by_its_id_alone(page: Page, runs: Path, name: str) -> None:
    (runs.parent / "run.json").write_text("{}")
    for rest in ("", "/version", "/log/train"):
        answer = page.get(f"/api/runs/{name}{rest}")
        assert answer.status_code == 404 or answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "", "10.0.0.1:8787"]
)
def test_another_name_for_this_server_is_refused(page: Page, host: str) -> None:
    assert page.get("/api/runs", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1", "[::1]:8787"])
def test_its_own_names_are_served(page: Page, host: str) -> None:
    assert page.get("/api/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("address", ["/api/plan", "/api/start", "/api/cancel"])
def test_a_button_needs_the_token_and_this_page(page: Page, runs: Path, address: str) -> None:
    body = {"run": make_run(runs).id, "action": "nonsense"}
    right = {TOKEN_HEADER: TOKEN}
    assert page.post(address, body).status_code == 403
    assert page.post(address, body, headers={TOKEN_HEADER: "wrong"}).status_code == 403
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{page.port}"):
        answer = page.post(address, body, headers={**right, "Origin": origin})
        assert answer.status_code == 403
    answer = page.post(address, body, headers={**right, "Origin": f"http://127.0.0.1:{page.port}"})
    assert answer.status_code == 409  # the token is right; there is no such button or process


def test_without_buttons_no_token_helps(runs: Path) -> None:
    make_run(runs)
    app = create_app(runs, token=TOKEN, buttons=False)
    with served(app) as client:
        assert client.get("/api/runs").json()["actions"] == []
        answer = client.post("/api/cancel", {"run": "x"}, headers={TOKEN_HEADER: TOKEN})
        assert answer.status_code == 403


def test_cancel_signals_the_process_of_the_record_and_no_other(runs: Path) -> None:
    code = "import time; print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        run = make_run(runs, State.RUNNING)
        run.pid, run.process_started = child.pid, "another boot:1"
        with pytest.raises(ConfigError, match="gone"):
            signal_engine(run)
        assert child.poll() is None
        run.process_started = processes.started(child.pid)
        signal_engine(run)
        assert child.wait(10) == -signal.SIGTERM
        with pytest.raises(ConfigError, match="gone"):
            signal_engine(run)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_cancel_leaves_runs_alone_that_ended_or_are_elsewhere(runs: Path) -> None:
    run = make_run(runs)
    run.pid = os.getpid()
    with pytest.raises(ConfigError, match="is not running"):
        signal_engine(run)
    run.state, run.host = State.RUNNING, "another machine"
    with pytest.raises(ConfigError, match="another machine"):
        signal_engine(run)


def test_a_plan_that_fails_shows_the_words_of_the_command() -> None:
    script = "import sys; print('because', sys.argv[1]); sys.exit(2)"
    assert actions.plan([sys.executable, "-c", script]) == (2, "because --dry-run")


def test_a_command_that_fails_at_once_is_told_and_a_lasting_one_goes_on(runs: Path) -> None:
    assert actions.start([sys.executable, "-c", "raise SystemExit('no')"], runs) == (1, "no")
    code, _ = actions.start([sys.executable, "-c", "import time; time.sleep(3)"], runs)
    assert code is None
    for child in actions._started:
        child.kill()
        child.wait()


def test_buttons_are_the_commands_that_people_type(runs: Path) -> None:
    run = make_run(runs)
    line = actions.command("from", run, "train", runs, ["epochs=5", "source=a b"])
    assert line[1].endswith("pipeline.py")
    changed = ["--set", "epochs=5", "--set", "source=a b"]
    place = ["--runs", str(runs), "--yes"]
    assert line[2:] == ["rerun", run.id, "--from", "train", *changed, *place]
    assert actions.command("resume", run, None, runs)[2:4] == ["resume", run.id]
    for step in (None, "", "nothing", "--yes"):
        with pytest.raises(ConfigError, match="step"):
            actions.command("only", run, step, runs)
    for setting in ("epochs", "=5", "--runs=/", "a b=5", ""):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            actions.command("only", run, "train", runs, [setting])
    with pytest.raises(ConfigError, match="button"):
        actions.command("--evil", run, "train", runs)


def test_a_moved_runs_folder_still_shows_its_files(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs)
    runs.rename(tmp_path / "moved")
    store = Store(tmp_path / "moved")
    step = store.detail(run.id)["steps"][1]
    assert step["log"] == f"{run.id}/logs/train.log"
    assert store.locate(step["outputs"]["out"]["file"]).is_dir()


@pytest.mark.parametrize("uri", ["s3://bucket/artifacts/x", "/etc/passwd", "", None, "relative"])
def test_places_elsewhere_are_no_files_of_the_page(runs: Path, uri: str | None) -> None:
    assert Store(runs).relative(uri) is None


def test_tables_are_shown_from_their_first_rows(tmp_path: Path) -> None:
    place = tmp_path / "table.parquet"
    rows = {"id": list(range(1000)), "x": [float("nan")] * 1000, "list": [["a"]] * 1000}
    parquet.write_table(pa.table(rows), place)
    found = previews.preview(place, 3)
    assert (found["kind"], found["row_count"], found["columns"]) == (
        "table",
        1000,
        ["id", "x", "list"],
    )
    assert found["rows"] == [[0, "nan", '["a"]'], [1, "nan", '["a"]'], [2, "nan", '["a"]']]
    json.dumps(found, allow_nan=False)


def test_kinds_are_told_by_name_or_by_the_first_bytes(tmp_path: Path) -> None:
    files = {
        "page": (b"<!DOCTYPE html><p>", "html"),
        "sound": (b"fLaC....", "audio"),
        "picture": (b"\x89PNG....", "image"),
        "a.json": (b'{"a": NaN}', "json"),
        "rows.json": (b'[{"a": 1}, {"b": 2}]', "table"),
        "a.csv": (b"a,b\n1,2\n", "table"),
        "notes": ("Vögel".encode(), "text"),
        "empty": (b"", "text"),
        "bytes": (b"\x00\x01\xff", "binary"),
        "broken.json": (b"{", "broken"),
        "broken.parquet": (b"PAR1", "broken"),
        "empty.csv": (b"", "table"),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    found = {name: previews.preview(tmp_path / name)["kind"] for name in files}
    assert found == {name: kind for name, (_, kind) in files.items()}
    whole = previews.preview(tmp_path)
    assert [entry["name"] for entry in whole["entries"]] == sorted(files)


def test_lineage_leads_from_an_artifact_back_to_the_first_one(page: Page, runs: Path) -> None:
    run = make_run(runs)
    found = page.get(f"/api/runs/{run.id}/lineage/evaluate-threshold/out").json()
    assert [(one["step"], one["name"], one["depth"]) for one in found] == [
        ("evaluate-threshold", "out", 0),
        ("train", "out", 1),
        ("ingest", "out", 2),
    ]
    assert {one["run"] for one in found} == {run.id}
    assert page.get(f"/api/runs/{run.id}/version").json() is None


def test_a_version_is_led_back_and_a_bundle_of_other_hashes_is_told(page: Page, runs: Path) -> None:
    run = make_run(runs)
    place = runs / run.id / "artifacts/evaluate-threshold/out"
    (place / "bundle").mkdir()
    (place / "version.json").write_text('{"name": "birdsong", "version": 1}')
    for sha256, agrees in (("ab" * 32, True), ("cd" * 32, False)):
        bundle = {"data": {"out": {"sha256": sha256, "made_from": {}}}}
        (place / "bundle" / "bundle.json").write_text(json.dumps(bundle))
        found = page.get(f"/api/runs/{run.id}/version").json()
        assert found["version"]["version"] == 1
        assert found["bundle"]["agrees"] is agrees
        assert found["behind"][-1]["step"] == "ingest"


def test_an_export_is_one_file_that_reaches_nothing_else(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs, failing="train", source="</script><script>alert(1)</script><!--")
    text = export(runs, run.id, tmp_path / "out.html").read_text()
    assert text.count("</script>") == 3
    assert "<!--" not in text
    assert "alert(1)<\\/script>" in text
    assert "no <i>birds" in text  # within the values, which the page shows as text
    assert 'src="' not in text
    assert "import {" not in text
    with pytest.raises(DataError, match="no run"):
        export(runs, "nothing", tmp_path / "out.html")


def test_the_command_says_where_the_page_is_and_ends_well_when_told_to(runs: Path) -> None:
    run = make_run(runs)
    command = [sys.executable, str(ROOT / "pipeline.py"), "ui", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address, token = server.stdout.readline().split()[-1].split("#token=")
            page = Page(int(address.rstrip("/").rsplit(":", 1)[1]))
            assert page.get("/api/runs").json()["runs"][0]["id"] == run.id
            assert len(token) >= 20
        finally:
            server.terminate()
        assert server.wait(20) == 0


def test_the_state_of_a_made_run_can_be_read(runs: Path) -> None:
    assert read(make_run(runs, failing="train").folder).state == State.FAILED
