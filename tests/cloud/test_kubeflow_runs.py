"""Runs on a Kubeflow Pipelines backend, by the command line, against a server of ours over HTTP."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kfp import FakeKfp, serving

from birdsong.cli import main
from birdsong.errors import BirdsongError, ConfigError
from birdsong.kubeflow import access, api, compiling, nonces, settings, submitting
from birdsong.runs import graph

REGISTRY = ("--set", "registry=http://mlflow.kubeflow:5000")
STEPS = list(settings.STEPS)
TOKEN = "eyJ-very-secret-token"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake() -> Iterator[FakeKfp]:
    with serving(FakeKfp()) as server:
        yield server


@pytest.fixture
def birdsong(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs a command in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BIRDSONG_", "KF_PIPELINES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BIRDSONG_KFP_INTERVAL", "0.01")
    monkeypatch.setattr(api, "pause", lambda seconds: None)
    waited = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: waited(min(seconds, 0.01)))

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["birdsong", *arguments])
        code = main.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return command


def submit(birdsong: Command, fake: FakeKfp, *more: str) -> tuple[int, str, str]:
    return birdsong("submit", "--host", fake.host, *REGISTRY, *more)


def only_run(fake: FakeKfp) -> dict[str, Any]:
    assert len(fake.runs) == 1
    return next(iter(fake.runs.values()))


# --- submit ---


def test_a_submit_uploads_a_version_starts_a_run_and_says_where_to_look(
    birdsong: Command, fake: FakeKfp
) -> None:
    code, out, _ = submit(birdsong, fake, "--set", "epochs=7", "--experiment", "spring")
    assert code == 0
    run = only_run(fake)
    assert f"{fake.host}/#/runs/details/{run['run_id']}" in out
    assert f"runs show {run['run_id']} --host {fake.host}" in out
    assert [e["display_name"] for e in fake.experiments.values()] == ["spring"]
    assert [p["name"] for p in fake.pipelines.values()] == ["birdsong"]
    version = fake.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["name"].startswith("birdsong-")
    parameters = run["runtime_config"]["parameters"]
    assert parameters["epochs"] == 7
    assert type(parameters["epochs"]) is int
    assert parameters["backbone"] == "tiny"
    assert set(parameters) == set(
        version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    )


def test_a_run_is_followed_with_the_lines_of_a_local_run(birdsong: Command, fake: FakeKfp) -> None:
    fake.slow = True
    code, out, _ = submit(birdsong, fake, "--wait")
    assert code == 0
    for step in STEPS:
        assert len([line for line in out.splitlines() if line.startswith(f"✓ {step} ")]) == 1
    assert "✓ Done in" in out


def test_a_failed_step_ends_with_one_and_says_how_to_go_on(
    birdsong: Command, fake: FakeKfp
) -> None:
    fake.failing = {"train"}
    code, out, _ = submit(birdsong, fake, "--wait")
    assert code == 1
    assert "✗ train" in out
    assert "step train failed" in out
    assert f"resume {only_run(fake)['run_id']} --host {fake.host}" in out
    assert "evaluate-threshold" not in out


def test_the_same_submit_twice_is_one_run(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake)
    code, out, _ = submit(birdsong, fake, "--wait")
    assert code == 0
    assert "is there already (SUCCEEDED); nothing was started" in out
    assert len(fake.runs) == len(fake.versions) == 1
    submit(birdsong, fake, "--set", "epochs=3")
    assert len(fake.runs) == 2
    assert len(fake.versions) == 1
    code, _, _ = submit(birdsong, fake, "--again")
    assert code == 0
    assert len(fake.runs) == 3


def test_the_second_submit_of_a_failed_run_tells_of_the_failure(
    birdsong: Command, fake: FakeKfp
) -> None:
    fake.failing = {"split"}
    submit(birdsong, fake)
    code, out, _ = submit(birdsong, fake, "--wait")
    assert code == 1
    assert "is there already (FAILED)" in out
    assert len(fake.runs) == 1


def test_a_name_that_another_request_has_taken_is_refused(birdsong: Command, fake: FakeKfp) -> None:
    assert submit(birdsong, fake, "--name", "monday")[0] == 0
    assert submit(birdsong, fake, "--name", "monday")[0] == 0
    code, _, err = submit(birdsong, fake, "--name", "monday", "--set", "epochs=3")
    assert code == 2
    assert "that was asked for otherwise" in err
    assert len(fake.runs) == 1


@pytest.mark.parametrize(
    ("call", "what"),
    [
        *(("runs", what) for what in ("drop after", "drop", 503)),
        *(("pipelines", what) for what in ("drop after", 503)),
        *(("experiments", what) for what in ("drop after", "drop")),
        *(("pipelines/upload_version", what) for what in ("drop after", "drop")),
    ],
)
def test_a_connection_that_breaks_makes_nothing_twice(
    birdsong: Command, fake: FakeKfp, call: str, what: int | str
) -> None:
    fake.fault("POST", f"/{call}", what)
    code, out, _ = submit(birdsong, fake)
    assert code == 0, out
    assert len(fake.runs) == len(fake.pipelines) == len(fake.versions) == 1
    assert len(fake.experiments) == 1
    again = what != "drop after"
    assert fake.count(f"POST /{call}") == 1 + again


def test_a_run_that_shows_late_and_was_made_twice_is_ended_once(fake: FakeKfp) -> None:
    fake.slow = True
    fake.fault("POST", "/runs", "drop after")
    backend = api.Api(access.Access(fake.host), sleep=lambda seconds: None)
    hidden: list[dict[str, Any]] = []

    def wait(seconds: float) -> None:
        # The backend has the run, but its list does not show it until the second one is made.
        if not hidden and fake.runs:
            hidden.append(fake.runs.pop(next(iter(fake.runs))))
            create = fake.create_run

            def late(query: Any, body: bytes, kind: str) -> Any:
                made = create(query, body, kind)
                fake.runs[hidden[0]["run_id"]] = hidden[0]
                return made

            fake.create_run = late  # type: ignore[method-assign]

    said: list[str] = []
    made = submitting.submit(backend, request(), said.append, wait)
    states = {run["run_id"]: run["state"] for run in fake.runs.values()}
    assert len(states) == 2
    assert made.run.run_id == hidden[0]["run_id"]
    assert states[hidden[0]["run_id"]] != "CANCELING"
    assert [states[run_id] for run_id in made.removed] == ["CANCELING"]
    assert "twice" in said[-1]


def request(name: str = "") -> submitting.Request:
    described = settings.ClusterSettings()
    found = compiling.compile_for_cluster(described, settings.resources(described, "demo"))
    values = graph.defaults(found.pipeline)
    return submitting.Request(found, values, name=name)


def test_requests_are_the_same_by_contents_and_not_by_name() -> None:
    first = request()
    assert first.sha256 == request("other").sha256
    other = submitting.Request(first.compiled, {**first.values, "epochs": 99})
    assert other.sha256 != first.sha256
    assert other.run_name != first.run_name
    assert other.version_name == first.version_name


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(
    birdsong: Command, fake: FakeKfp
) -> None:
    code, out, _ = submit(
        birdsong, fake, "--dry-run", "--profile", "reference", *("--set", "weights=none")
    )
    assert code == 0
    assert fake.calls == []
    assert "32Gi, 1 GPU  birdsong-python-train:" in out
    assert "registry = http://mlflow.kubeflow:5000" in out
    assert "request " in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "registry=sqlite:///runs/mlflow.db"), "is a file, which is lost with its pod"),
        (("--set", "registry="), "registry is empty"),
        (("--source", "/home/me/birds"), "no pod sees this machine's files"),
        (("--source", "birds"), "no pod sees this machine's files"),
        (("--set", "no_call_source=/home/me/wind"), "no_call_source /home/me/wind: no pod sees"),
        (("--set", "weights=/home/me/best.h5"), "weights /home/me/best.h5: no pod sees"),
        (("--set", "weights=file:///home/me/best.h5"), "no pod sees"),
        (("--set", "frame_labels=/home/me/frames.csv"), "frame_labels /home/me/frames.csv: no pod"),
        (("--set", "registry=http://me:pw@mlflow"), "registry: a name or password does not belong"),
        (("--set", "devices=2"), "devices is 2, but tune asks for 0 GPUs"),
        (("--set", "epoch=2"), "Did you mean epochs?"),
        (("--set", "epochs=0"), "epochs: Input should be greater"),
        (("--set", "gate=open"), "gate: Input should be 'none'"),
        (("--runs-on", "sagemaker"), "--runs-on sagemaker needs --sagemaker FILE"),
        (("--runs-on", "moon"), "choose here or sagemaker"),
        (("--auth", "magic"), "choose auto, none, token, client"),
        (("--auth", "token"), "set BIRDSONG_KFP_TOKEN"),
        (("--cluster", "nowhere.yaml"), "cannot be read"),
        (("--host", "localhost:8080"), "needs the address"),
        (("--host", "http://me:pw@kfp"), "does not belong into the address"),
        (("--host", "http://["), "needs the address"),
    ],
)
def test_what_no_cluster_could_do_is_refused_before_anything_is_sent(
    birdsong: Command, fake: FakeKfp, options: tuple[str, ...], said: str
) -> None:
    code, _, err = submit(birdsong, fake, *options)
    assert code == 2
    assert said in err
    assert "pw@" not in err
    assert fake.calls == []


def test_a_folder_in_a_mounted_claim_is_a_source(birdsong: Command, fake: FakeKfp) -> None:
    Path("mine.yaml").write_text("mounts: [{claim: birds, path: /data}]\nregistry: https://ml.x\n")
    code, _, err = birdsong(
        "submit", "--host", fake.host, "--cluster", "mine.yaml", "--source", "/data/birds"
    )
    assert code == 0, err
    assert only_run(fake)["runtime_config"]["parameters"]["source"] == "/data/birds"
    code, _, err = birdsong(
        "submit", "--host", fake.host, "--cluster", "mine.yaml", "--source", "/database"
    )
    assert code == 2
    assert "Mounted there: /data (birds)" in err


def test_settings_of_the_cluster_reach_the_run(birdsong: Command, fake: FakeKfp) -> None:
    Path("mine.yaml").write_text(
        "namespace: team\nservice_account: editor\npipeline_root: s3://birds/runs\n"
        "registry: http://ml:5000\nimage_registry: reg.example/x\n"
    )
    assert birdsong("submit", "--host", fake.host, "--cluster", "mine.yaml")[0] == 0
    run = only_run(fake)
    assert run["service_account"] == "editor"
    assert run["runtime_config"]["pipeline_root"] == "s3://birds/runs"
    assert run["runtime_config"]["parameters"]["registry"] == "http://ml:5000"
    assert next(iter(fake.experiments.values()))["namespace"] == "team"
    assert next(iter(fake.pipelines.values()))["namespace"] == "team"


# --- who asks ---


def test_a_token_comes_from_the_environment_or_a_file_and_is_never_shown(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.token = TOKEN
    (tmp_path / "token").write_text(f"Bearer {TOKEN}\n")
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN_FILE", str(tmp_path / "token"))
    code, out, err = submit(birdsong, fake, "--wait")
    assert code == 0
    monkeypatch.delenv("BIRDSONG_KFP_TOKEN_FILE")
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN", TOKEN)
    code, more, _ = birdsong("runs", "show", "latest", "--json", "--host", fake.host)
    assert code == 0
    assert TOKEN not in out + err + more + json.dumps([fake.runs, fake.versions])
    assert TOKEN not in repr(access.access(fake.host, "auto", os.environ))


def test_a_wrong_token_is_refused_without_showing_it(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.token = "another"
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN", TOKEN)
    code, out, err = submit(birdsong, fake)
    assert code == 1
    assert "401" in err
    assert "(token)" in err  # the server had repeated it
    assert TOKEN not in out + err


def test_a_token_is_not_sent_when_none_is_asked_for(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN", TOKEN)
    assert submit(birdsong, fake, "--auth", "none")[0] == 0
    assert not any("authorization" in map(str.lower, headers) for headers in fake.headers)


@pytest.mark.parametrize("text", ["", "  \n", "two words", "line\nbreak", "naïve"])
def test_a_token_that_cannot_be_one_is_refused(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "token").write_text(text)
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN_FILE", str(tmp_path / "token"))
    code, _, err = submit(birdsong, fake)
    assert code == 2
    assert "is empty or no single word" in err


def test_kfps_own_client_gives_its_credentials(
    birdsong: Command, fake: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp.client import Client

    context = tmp_path / "context.json"
    context.write_text(
        json.dumps({"namespace": "", "client_authentication_cookie": "session=from-the-context"})
    )
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(context))
    assert submit(birdsong, fake, "--auth", "client")[0] == 0
    assert fake.headers[-1]["Cookie"] == "session=from-the-context"


# --- a backend in trouble ---


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "BIRDSONG_KFP_TOKEN_FILE"),
        (403, "lacks the right"),
        (404, "the right --host"),
        (500, "kubectl -n kubeflow logs deploy/ml-pipeline"),
        (302, "login page"),
    ],
)
@pytest.mark.parametrize("call", [("GET", "/healthz"), ("POST", "/runs")])
def test_a_refusal_is_told_with_what_to_do(
    birdsong: Command, fake: FakeKfp, status: int, said: str, call: tuple[str, str]
) -> None:
    fake.fault(*call, status, times=9)
    code, _, err = submit(birdsong, fake)
    assert code == 1
    assert str(status) in err
    assert f"made up {status}" in err
    assert said in err
    assert len(err.strip().splitlines()) == 1 + ("uploading" in err)
    assert fake.runs == {}


def test_a_login_page_is_not_taken_for_an_answer(birdsong: Command, fake: FakeKfp) -> None:
    fake.fault("GET", "/healthz", "html")
    code, _, err = submit(birdsong, fake)
    assert code == 1
    assert "no KFP API, such as a login page" in err


def test_a_host_that_is_not_there_is_told_at_once(birdsong: Command) -> None:
    code, _, err = birdsong("submit", "--host", "http://127.0.0.1:9", *REGISTRY)
    assert code == 1
    assert "does not answer" in err
    assert "port-forward" in err
    code, _, err = birdsong("runs", "list", "--host", "http://no-such-host.invalid")
    assert code == 1
    assert "does not answer" in err


def test_a_backend_that_hangs_is_not_waited_for_forever(fake: FakeKfp) -> None:
    fake.fault("GET", "/healthz", "hang", times=9)
    backend = api.Api(access.Access(fake.host, read_seconds=1), sleep=lambda seconds: None)
    with pytest.raises(api.UnsureError, match="no answer within 1 s"):
        backend.check()


def test_a_start_that_is_not_answered_in_time_is_asked_for_again(fake: FakeKfp) -> None:
    fake.fault("POST", "/runs", "hang")
    backend = api.Api(access.Access(fake.host, read_seconds=1), sleep=lambda seconds: None)
    said: list[str] = []
    made = submitting.submit(backend, request(), said.append, lambda seconds: None)
    assert any("no answer within 1 s" in line for line in said)
    assert list(fake.runs) == [made.run.run_id]


def test_reading_is_repeated_when_the_backend_is_away_for_a_moment(
    birdsong: Command, fake: FakeKfp
) -> None:
    submit(birdsong, fake)
    for what in (502, "drop"):
        fake.fault("GET", "/runs", what)
    code, out, _ = birdsong("runs", "list", "--host", fake.host)
    assert code == 0
    assert "SUCCEEDED" in out


def test_a_follower_bears_a_backend_that_goes_away_and_comes_back(
    birdsong: Command, fake: FakeKfp
) -> None:
    fake.slow = True
    fake.fault("GET", "/runs/[^/]+", "drop", times=3)
    fake.fault("GET", "/runs/[^/]+", 503, times=3)
    code, out, err = submit(birdsong, fake, "--wait")
    assert code == 0
    assert "the run goes on" in err
    assert "answers again" in err
    assert "✓ deploy" in out


def test_a_follower_gives_up_in_the_end(fake: FakeKfp) -> None:
    from birdsong.kubeflow import following

    fake.fault("GET", "/runs/x", 503, times=10_000)
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += 30

    backend = api.Api(access.Access(fake.host), sleep=wait)
    with pytest.raises(BirdsongError, match="The run goes on; look at it later"):
        following.follow(backend, "x", None, Silent(), sleep=wait, clock=lambda: now[0])
    assert 600 < now[0] < 1200


class Silent:
    def step_changed(self, run: Any, step: Any) -> None:
        pass


def test_ctrl_c_ends_the_watching_and_not_the_run(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _thread

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    fake.slow = True
    monkeypatch.setattr(time, "sleep", lambda seconds: threading.Event().wait(0.2))
    get = fake.get_run

    def interrupting(query: Any, body: bytes, kind: str, which: str) -> Any:
        if fake.count("GET /runs/[^/]+") == 2:
            threading.Timer(0.001, _thread.interrupt_main).start()
        return get(query, body, kind, which)

    monkeypatch.setattr(fake, "get_run", interrupting)
    try:
        code, _, err = submit(birdsong, fake, "--wait")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "goes on" in err
    assert only_run(fake)["state"] in ("PENDING", "RUNNING")
    assert fake.count("POST /runs/.*:terminate") == 0


# --- rerun, resume, stop, runs ---


def test_a_rerun_from_a_step_executes_it_and_what_depends_on_it(
    birdsong: Command, fake: FakeKfp
) -> None:
    submit(birdsong, fake)
    first = only_run(fake)["run_id"]
    code, out, _ = birdsong(
        "rerun", first, "--from", "evaluate_threshold", "--host", fake.host, "--yes", "--wait"
    )
    assert code == 0
    assert "↺ train                 reused from the cache of the cluster" in out
    second = next(run for run in fake.runs if run != first)
    assert fake.executed[second] == ["evaluate-threshold", "register", "deploy"]
    assert f"of {first}" in fake.runs[second]["description"]


def test_a_rerun_goes_on_from_a_rerun(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake)
    birdsong("rerun", "latest", "--from", "train", "--host", fake.host, "--yes")
    code, _, _ = birdsong("rerun", "latest", "--from", "register", "--host", fake.host, "--yes")
    assert code == 0
    last = list(fake.runs)[-1]
    assert fake.executed[last] == ["register", "deploy"]
    # What train made in the second run, not in the first one.
    spec = fake.versions[fake.runs[last]["pipeline_version_reference"]["pipeline_version_id"]]
    assert set(nonces.nonces(spec["pipeline_spec"]["pipeline_spec"])) == {"train", "register"}


def test_one_step_alone_is_executed_and_nothing_after_it(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake)
    code, out, _ = birdsong("rerun", "latest", "--only", "train", "--host", fake.host, "--yes")
    assert code == 0
    assert "deploy              left out  not asked for" in out
    last = list(fake.runs)[-1]
    assert fake.executed[last] == ["train"]
    names = {t["display_name"] for t in fake.runs[last]["run_details"]["task_details"]}
    assert "evaluate-threshold" not in names
    # The next whole run takes the results of before, as nothing it depends on has changed.
    submit(birdsong, fake, "--again")
    assert fake.executed[list(fake.runs)[-1]] == []


def test_a_changed_parameter_runs_what_it_reaches(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake)
    code, out, _ = birdsong(
        "rerun", "latest", "--set", "target_fpr=0.05", "--host", fake.host, "--yes"
    )
    assert code == 0
    assert "target_fpr: 0.01 -> 0.05" in out
    assert "evaluate-threshold  runs      target_fpr changed" in out
    assert fake.executed[list(fake.runs)[-1]] == ["evaluate-threshold", "register", "deploy"]


def test_a_rerun_says_what_would_run_unasked(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(birdsong, fake)
    monkeypatch.setenv("BIRDSONG_IMAGE_DATA", "birdsong-python-data:edited")
    code, out, _ = birdsong(
        "rerun", "latest", "--from", "register", "--host", fake.host, "--dry-run"
    )
    assert code == 0
    assert "ingest              runs      its image changed: birdsong-python-data:" in out
    assert "-> birdsong-python-data:edited" in out
    assert "train               runs      comes after featurize" in out
    assert "Not asked for, but would run again: ingest, split, featurize" in out
    assert len(fake.runs) == 1
    monkeypatch.delenv("BIRDSONG_IMAGE_DATA")
    _, out, _ = birdsong("rerun", "latest", "--from", "register", "--host", fake.host, "--dry-run")
    assert "Not asked for" not in out


def test_a_rerun_asks_and_starts_nothing_where_nobody_answers(
    birdsong: Command, fake: FakeKfp
) -> None:
    submit(birdsong, fake)
    code, _, err = birdsong("rerun", "latest", "--from", "train", "--host", fake.host)
    assert code == 2
    assert "Add --yes" in err
    assert len(fake.runs) == 1


def test_a_person_is_asked_with_no_as_the_answer_where_more_would_run(
    birdsong: Command, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(birdsong, fake)
    asked: list[bool] = []

    def confirm(text: str, default: bool) -> bool:
        asked.append(default)
        return default

    monkeypatch.setattr("typer.confirm", confirm)
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert birdsong("rerun", "latest", "--from", "train", "--host", fake.host)[0] == 0
    assert len(fake.runs) == 2
    monkeypatch.setenv("BIRDSONG_IMAGE_DATA", "birdsong-python-data:edited")
    assert birdsong("rerun", "latest", "--from", "train", "--host", fake.host)[0] == 0
    assert len(fake.runs) == 2
    assert asked == [True, False]


class Terminal:
    def isatty(self) -> bool:
        return True


def test_a_rerun_of_a_failed_run_runs_what_did_not_finish(birdsong: Command, fake: FakeKfp) -> None:
    fake.failing = {"tune"}
    submit(birdsong, fake)
    fake.failing = set()
    code, out, _ = birdsong("rerun", "latest", "--from", "deploy", "--host", fake.host, "--yes")
    assert code == 0
    assert "tune                runs      did not finish there: FAILED" in out
    assert "train               runs" in out
    assert fake.executed[list(fake.runs)[-1]] == STEPS[3:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "trian"), "Did you mean train?"),
        ((), "Say what to run again"),
        (("--from", "train", "--only", "train"), "Give either --from or --only"),
        (("--set", "epoch=1"), "Did you mean epochs?"),
        (("--set", "source=/home/me"), "no pod sees this machine's files"),
    ],
)
def test_a_rerun_that_makes_no_sense_is_refused(
    birdsong: Command, fake: FakeKfp, options: tuple[str, ...], said: str
) -> None:
    submit(birdsong, fake)
    code, _, err = birdsong("rerun", "latest", *options, "--host", fake.host, "--yes")
    assert code == 2
    assert said in err
    assert len(fake.runs) == 1


def test_resume_goes_on_with_the_run_itself(birdsong: Command, fake: FakeKfp) -> None:
    fake.failing = {"train"}
    submit(birdsong, fake)
    fake.failing = set()
    code, out, _ = birdsong("resume", "latest", "--host", fake.host, "--wait")
    assert code == 0
    assert "✓ deploy" in out
    assert fake.executed[only_run(fake)["run_id"]] == [*STEPS[:5], *STEPS[4:]]
    code, out, _ = birdsong("resume", "latest", "--host", fake.host)
    assert code == 0
    assert "nothing to do" in out


@pytest.mark.parametrize("what", ["drop", "drop after"])
def test_a_resume_whose_answer_is_lost_is_carried_out_once(
    birdsong: Command, fake: FakeKfp, what: str
) -> None:
    fake.failing = {"train"}
    submit(birdsong, fake)
    fake.failing, fake.slow = set(), True
    fake.fault("POST", "/runs/.*:retry", what)
    code, _, err = birdsong("resume", "latest", "--host", fake.host, "--wait")
    assert code == 0, err
    assert fake.executed[only_run(fake)["run_id"]].count("train") == 2


def test_a_resume_that_the_backend_cannot_do_says_what_can_be_done(
    birdsong: Command, fake: FakeKfp
) -> None:
    fake.failing = {"train"}
    submit(birdsong, fake)
    fake.fault("POST", "/runs/.*:retry", 500)
    code, _, err = birdsong("resume", "latest", "--host", fake.host)
    assert code == 1
    assert "rerun" in err
    assert "--from STEP" in err


def test_stop_ends_a_run_and_waits_until_it_is_over(birdsong: Command, fake: FakeKfp) -> None:
    fake.slow = True
    submit(birdsong, fake)
    fake.fault("POST", "/runs/.*:terminate", "drop after")
    code, out, _ = birdsong("stop", "latest", "--host", fake.host)
    assert code == 0
    assert "is CANCELLED" in out
    assert only_run(fake)["state"] == "CANCELED"
    code, out, _ = birdsong("runs", "show", "latest", "--host", fake.host)
    assert "CANCELLED" in out


def test_runs_are_found_by_id_start_of_id_name_and_latest(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake, "--name", "monday")
    submit(birdsong, fake, "--name", "tuesday")
    monday = next(run for run in fake.runs.values() if run["display_name"] == "monday")
    for name in ("monday", monday["run_id"], monday["run_id"][:8]):
        code, out, _ = birdsong("runs", "show", name, "--host", fake.host)
        assert code == 0
        assert monday["run_id"] in out.splitlines()[0]
    assert "tuesday" in birdsong("runs", "show", "latest", "--host", fake.host)[1]
    code, _, err = birdsong("runs", "show", "sunday", "--host", fake.host)
    assert code == 2
    assert "Known, newest first: tuesday, monday" in err
    code, _, err = birdsong(
        "runs", "show", "0" * 8 + "-0000-4000-8000-" + "0" * 12, "--host", fake.host
    )
    assert code == 1
    assert "404" in err


def test_runs_are_listed_newest_first(birdsong: Command, fake: FakeKfp) -> None:
    code, out, _ = birdsong("runs", "list", "--host", fake.host)
    assert code == 0
    assert "No runs at" in out
    submit(birdsong, fake, "--name", "number 0")
    first = only_run(fake)
    for number in range(1, 22):
        run_id = f"{number:08}-0000-4000-8000-000000000000"
        more = {"run_id": run_id, "display_name": f"number {number}", "created_at": fake.now()}
        fake.runs[run_id] = {**first, **more}
    lines = birdsong("runs", "list", "--host", fake.host)[1].splitlines()
    assert "number 21" in lines[0]
    assert "number 2" in lines[19]
    assert len(lines) == 21
    assert "older ones" in lines[20]


def test_a_run_as_json_has_the_form_of_a_local_record(birdsong: Command, fake: FakeKfp) -> None:
    submit(birdsong, fake)
    code, out, _ = birdsong("runs", "show", "latest", "--json", "--host", fake.host)
    assert code == 0
    document = json.loads(out)
    assert document["state"] == "SUCCEEDED"
    assert [step["name"] for step in document["steps"]] == STEPS
    assert document["page"].startswith(fake.host)


# --- nonces ---


def test_a_nonce_changes_the_key_of_its_step_and_nothing_else() -> None:
    found = request()
    values = found.values
    new = nonces.with_nonces(found.compiled, {"train": "n1"})
    for step in STEPS:
        before = nonces.cache_key_parts(found.compiled, step, values)
        after = nonces.cache_key_parts(new, step, values)
        assert (before == after) == (step != "train")
    assert new.platform == found.compiled.platform
    for part in ("components", "root", "pipelineInfo"):
        assert new.pipeline[part] == found.compiled.pipeline[part]
    assert nonces.nonces(found.compiled.pipeline) == {}
    assert nonces.nonces(new.pipeline) == {"train": "n1"}
    again = nonces.with_nonces(new, {"train": "n2"})
    assert nonces.nonces(again.pipeline) == {"train": "n2"}
    assert nonces.container_of(again.pipeline, "train")["args"].count(nonces.FLAG) == 1


def test_a_pipeline_cut_to_one_step_is_whole() -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    found = request()
    cut = nonces.only_up_to(found.compiled, "tune")
    assert list(graph.steps(cut.pipeline)) == STEPS[:4]
    json_format.ParseDict(cut.pipeline, pipeline_spec_pb2.PipelineSpec())
    labels = set(cut.pipeline["deploymentSpec"]["executors"])
    assert labels == {f"exec-{step}" for step in STEPS[:4]}
    extra = cut.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(extra) == labels
    for step in STEPS[:4]:
        assert nonces.cache_key_parts(cut, step, found.values) == nonces.cache_key_parts(
            found.compiled, step, found.values
        )


# --- the file of --cluster ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retries: many", "retries"),
        ("retry: 3", "Extra inputs are not permitted"),
        ("user: 0", "user: Input should be greater than or equal to 1"),
        ("steps: {trian: {cpu: 2}}", "Did you mean train?"),
        ("steps: {split: {gpus: 1}}", "split makes no use of a GPU"),
        ("steps: {train: {memory: lots}}", "write 8Gi or 512Mi"),
        ("steps: {train: {cpu: four}}", "write 2, 0.5 or 500m"),
        ("mounts: [{claim: Birds, path: /data}]", "claim"),
        ("mounts: [{claim: birds, path: /tmp/x}]", "is taken in a pod"),
        ("mounts: [{claim: birds, path: data}]", "path"),
        ("secrets: {aws: AKIA_SECRET}", "aws"),
        ("pipeline_root: /data", "needs an address such as s3://"),
        ("- a list", "needs names and values"),
        ("{", "is not YAML"),
        ("1: 2", "needs names and values"),
    ],
)
def test_a_file_of_a_cluster_that_does_not_fit_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="mine") as caught:
        settings.read(tmp_path / "mine.yaml")
    assert said in str(caught.value)


def test_an_empty_file_of_a_cluster_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing yet\n")
    assert settings.read(tmp_path / "mine.yaml") == settings.ClusterSettings()
