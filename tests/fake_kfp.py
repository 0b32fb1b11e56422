"""A server of ours that speaks the part of KFP's v2beta1 API that birdsong uses.

Every request and every answer passes through the models of `kfp_server_api`, so that a field that
the real API does not have fails here. Uploaded pipelines pass through KFP's own messages. Runs are
"executed" at once with a cache as the backend's: known by image, command, arguments, claims, values
and the ids of the artifacts that come in. Faults can be ordered for any call.
"""

import contextlib
import datetime
import email.parser
import email.policy
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

_CLIENT = kfp_server_api.ApiClient(kfp_server_api.Configuration())


class _Response:
    def __init__(self, document: Any) -> None:
        self.data = json.dumps(document)


def through_model(document: Any, model: str) -> Any:
    """The document as the model reads and writes it; fails where it loses or changes anything."""
    read = _CLIENT.deserialize(_Response(document), model)
    written = _CLIENT.sanitize_for_serialization(read)
    if _plain(written) != _plain(document):
        raise ValueError(f"not a {model}: {document} came back as {written}")
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT.*", value):
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value


@dataclass
class Fault:
    """What goes wrong with calls that fit.

    Attributes:
        method, path: Of the calls; `path` is a regular expression.
        what: A status as 500; "hang"; "drop" (nothing is done, the connection ends); "drop after"
            (the work is done, the connection ends without an answer); "html".
        times: How often.
    """

    method: str
    path: str
    what: int | str
    times: int = 1


@dataclass
class FakeKfp:
    """The backend's state.

    Attributes:
        token: The bearer token that is wanted; None for none.
        failing: Steps that fail when they are executed.
        slow: A run goes one step further at each look, instead of being done at once.
        calls: "METHOD path" of all calls, in order.
        executed: Run id to the steps that were executed, not taken from the cache.
    """

    token: str | None = None
    failing: set[str] = field(default_factory=set)
    slow: bool = False
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: dict[str, list[str]] = field(default_factory=dict)
    cache: dict[str, dict[str, str]] = field(default_factory=dict)
    host: str = ""
    clock: datetime.datetime = datetime.datetime(2026, 11, 25, 3, 0, 0, tzinfo=datetime.UTC)
    pending: dict[str, list[Callable[[], None]]] = field(default_factory=dict)

    def now(self, seconds: float = 1) -> str:
        """A time later than all before."""
        self.clock += datetime.timedelta(seconds=seconds)
        return self.clock.isoformat().replace("+00:00", "Z")

    def fault(self, method: str, path: str, what: int | str, times: int = 1) -> None:
        """Order a fault."""
        self.faults.append(Fault(method, path, what, times))

    def count(self, call: str) -> int:
        """How often a call was made."""
        return sum(re.fullmatch(call, made) is not None for made in self.calls)

    # --- what the calls do ---

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> Any:
        """The document of the answer. Raises KeyError for what is not there."""
        for expected, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, path)
            if method == expected and found:
                act = getattr(self, name)
                return act(query, body, kind, *map(unquote, found.groups()))
        raise KeyError(path)

    def healthz(self, query: Any, body: bytes, kind: str) -> Any:
        return through_model({"multi_user": False}, "V2beta1GetHealthzResponse")

    def create_experiment(self, query: Any, body: bytes, kind: str) -> Any:
        wanted = through_model(json.loads(body), "V2beta1Experiment")
        if any(e["display_name"] == wanted["display_name"] for e in self.experiments.values()):
            raise FileExistsError(wanted["display_name"])
        made = {**wanted, "experiment_id": str(uuid.uuid4()), "created_at": self.now()}
        self.experiments[made["experiment_id"]] = made
        return through_model(made, "V2beta1Experiment")

    def get_experiment(self, query: Any, body: bytes, kind: str, which: str) -> Any:
        return through_model(self.experiments[which], "V2beta1Experiment")

    def list_experiments(self, query: Any, body: bytes, kind: str) -> Any:
        found = _filtered(list(self.experiments.values()), query)
        answer = {"experiments": found, "total_size": len(found)} if found else {}
        return through_model(answer, "V2beta1ListExperimentsResponse")

    def create_pipeline(self, query: Any, body: bytes, kind: str) -> Any:
        wanted = through_model(json.loads(body), "V2beta1Pipeline")
        if any(p["name"] == wanted["name"] for p in self.pipelines.values()):
            raise FileExistsError(wanted["name"])
        made = {**wanted, "pipeline_id": str(uuid.uuid4()), "created_at": self.now()}
        self.pipelines[made["pipeline_id"]] = made
        return through_model(made, "V2beta1Pipeline")

    def list_pipelines(self, query: Any, body: bytes, kind: str) -> Any:
        found = _filtered(list(self.pipelines.values()), query)
        return through_model({"pipelines": found} if found else {}, "V2beta1ListPipelinesResponse")

    def list_versions(self, query: Any, body: bytes, kind: str, pipeline: str) -> Any:
        found = [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
        found = _filtered(found, query)
        answer = {"pipeline_versions": found} if found else {}
        return through_model(answer, "V2beta1ListPipelineVersionsResponse")

    def get_version(self, query: Any, body: bytes, kind: str, pipeline: str, which: str) -> Any:
        if self.versions[which]["pipeline_id"] != pipeline:
            raise KeyError(which)
        return through_model(self.versions[which], "V2beta1PipelineVersion")

    def upload_version(self, query: Any, body: bytes, kind: str) -> Any:
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            f"Content-Type: {kind}\r\n\r\n".encode() + body
        )
        part = next(iter(parsed.iter_parts()))
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        pipeline, *rest = list(yaml.load_all(part.get_payload(decode=True), yaml.CSafeLoader))
        json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        spec = pipeline
        if rest:
            json_format.ParseDict(rest[0], pipeline_spec_pb2.PlatformSpec())
            spec = {"pipeline_spec": pipeline, "platform_spec": rest[0]}
        if query["pipelineid"] not in self.pipelines:
            raise KeyError(query["pipelineid"])
        if any(v["name"] == query["name"] for v in self.versions.values()):
            raise FileExistsError(query["name"])
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": str(uuid.uuid4()),
            "name": query["name"],
            "display_name": query.get("display_name", query["name"]),
            "description": query.get("description", ""),
            "created_at": self.now(),
            "pipeline_spec": spec,
        }
        self.versions[made["pipeline_version_id"]] = made
        return through_model(made, "V2beta1PipelineVersion")

    def create_run(self, query: Any, body: bytes, kind: str) -> Any:
        wanted = through_model(json.loads(body), "V2beta1Run")
        reference = wanted["pipeline_version_reference"]
        version = self.versions[reference["pipeline_version_id"]]
        if wanted["experiment_id"] not in self.experiments:
            raise KeyError(wanted["experiment_id"])
        made = {
            **wanted,
            "run_id": str(uuid.uuid4()),
            "created_at": self.now(),
            "state": "PENDING",
            "state_history": [{"update_time": self.now(), "state": "PENDING"}],
        }
        self.runs[made["run_id"]] = made
        self._execute(made, version["pipeline_spec"])
        return through_model(made, "V2beta1Run")

    def list_runs(self, query: Any, body: bytes, kind: str) -> Any:
        assert query.get("sort_by") == "created_at desc"
        found = sorted(self.runs.values(), key=lambda run: str(run["created_at"]), reverse=True)
        if "experiment_id" in query:
            found = [run for run in found if run["experiment_id"] == query["experiment_id"]]
        found = _filtered(found, query)
        start = int(query.get("page_token") or 0)
        size = int(query.get("page_size") or 10)
        answer: dict[str, Any] = {"total_size": len(found)}
        if found[start : start + size]:
            answer["runs"] = found[start : start + size]
        if start + size < len(found):
            answer["next_page_token"] = str(start + size)
        return through_model(answer, "V2beta1ListRunsResponse")

    def get_run(self, query: Any, body: bytes, kind: str, which: str) -> Any:
        run = self.runs[which]
        if self.pending.get(which):
            self.pending[which].pop(0)()
        return through_model(run, "V2beta1Run")

    def retry_run(self, query: Any, body: bytes, kind: str, which: str) -> Any:
        run = self.runs[which]
        if run["state"] not in ("FAILED", "CANCELED"):
            raise PermissionError("only failed or terminated runs can be retried")
        version = self.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
        run.pop("error", None)
        run.pop("finished_at", None)
        run["state"] = "RUNNING"
        self._execute(run, version["pipeline_spec"])
        return {}

    def terminate_run(self, query: Any, body: bytes, kind: str, which: str) -> Any:
        run = self.runs[which]
        if run["state"] in ("PENDING", "RUNNING"):
            run["state"] = "CANCELING"

            def end() -> None:
                run.update(state="CANCELED", finished_at=self.now())

            self.pending[which] = [end]
        return {}

    # --- executing ---

    def _execute(self, run: dict[str, Any], spec: dict[str, Any]) -> None:
        pipeline = spec.get("pipeline_spec", spec)
        platform = spec.get("platform_spec", {})
        values = {
            name: declared.get("defaultValue")
            for name, declared in pipeline["root"]["inputDefinitions"]["parameters"].items()
        } | (run["runtime_config"].get("parameters") or {})
        run["run_details"] = {"task_details": []}
        self.executed.setdefault(run["run_id"], [])
        made: dict[str, dict[str, str]] = {}
        acts: list[Callable[[], None]] = []
        for step in _in_order(pipeline["root"]["dag"]["tasks"]):
            acts.append(lambda step=step: self._start(run, step))  # type: ignore[misc]
            acts.append(
                lambda step=step: self._end(run, pipeline, platform, values, made, step)  # type: ignore[misc]
            )
        acts.append(lambda: self._finish(run))
        if self.slow:
            self.pending[run["run_id"]] = acts
        else:
            for act in acts:
                act()

    def _start(self, run: dict[str, Any], step: str) -> None:
        if run["state"] in ("FAILED", "CANCELED", "CANCELING"):
            return
        run["state"] = "RUNNING"
        tasks = run["run_details"]["task_details"]
        for name, state in ((f"{step}-driver", "SUCCEEDED"), (step, "RUNNING")):
            tasks.append(
                {
                    "run_id": run["run_id"],
                    "task_id": str(uuid.uuid4()),
                    "display_name": name,
                    "create_time": self.now(),
                    "start_time": self.now(0),
                    "state": state,
                }
            )

    def _end(
        self,
        run: dict[str, Any],
        pipeline: dict[str, Any],
        platform: dict[str, Any],
        values: dict[str, Any],
        made: dict[str, dict[str, str]],
        step: str,
    ) -> None:
        if run["state"] in ("FAILED", "CANCELED", "CANCELING"):
            return
        task = pipeline["root"]["dag"]["tasks"][step]
        component = pipeline["components"][task["componentRef"]["name"]]
        label = component["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][label]["container"]
        inputs = {
            name: made[given["taskOutputArtifact"]["producerTask"]][
                given["taskOutputArtifact"]["outputArtifactKey"]
            ]
            for name, given in task.get("inputs", {}).get("artifacts", {}).items()
        }
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        extra = kubernetes.get("deploymentSpec", {}).get("executors", {}).get(label, {})
        key = hashlib.sha256(
            json.dumps(
                [
                    container["image"],
                    container["command"],
                    container["args"],
                    sorted(str(claim) for claim in extra.get("pvcMount", [])),
                    {
                        name: values[given["componentInputParameter"]]
                        for name, given in task["inputs"].get("parameters", {}).items()
                    },
                    inputs,
                    sorted(component["outputDefinitions"]["artifacts"]),
                ],
                sort_keys=True,
            ).encode()
        ).hexdigest()
        cached = task["cachingOptions"].get("enableCache") and key in self.cache
        entry = next(
            t for t in reversed(run["run_details"]["task_details"]) if t["display_name"] == step
        )
        if not cached:
            self.now(30)
            self.executed[run["run_id"]].append(step)
        failed = step in self.failing and not cached
        run["run_details"]["task_details"].append(
            {
                "run_id": run["run_id"],
                "task_id": str(uuid.uuid4()),
                "display_name": "executor",
                "create_time": self.now(0),
                "start_time": self.now(0),
                "end_time": self.now(0),
                "state": "SKIPPED" if cached else "FAILED" if failed else "SUCCEEDED",
            }
        )
        entry.update(state="FAILED" if failed else "SUCCEEDED", end_time=self.now(0))
        if failed:
            run.update(
                state="FAILED",
                finished_at=self.now(),
                error={"code": 13, "message": f"task {step} failed", "details": []},
            )
            return
        if cached:
            made[step] = self.cache[key]
            return
        made[step] = {
            name: str(uuid.uuid4()) for name in component["outputDefinitions"]["artifacts"]
        }
        self.cache[key] = made[step]

    def _finish(self, run: dict[str, Any]) -> None:
        if run["state"] in ("PENDING", "RUNNING"):
            run.update(state="SUCCEEDED", finished_at=self.now())


def _in_order(tasks: dict[str, Any]) -> list[str]:
    done: list[str] = []
    while len(done) < len(tasks):
        for name in sorted(tasks):
            if name not in done and set(tasks[name].get("dependentTasks", [])) <= set(done):
                done.append(name)
    return done


def _filtered(found: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    if not query.get("filter"):
        return found
    wanted = through_model(json.loads(query["filter"]), "V2beta1Filter")
    for predicate in wanted["predicates"]:
        assert predicate["operation"] == "EQUALS"
        found = [one for one in found if one.get(predicate["key"]) == predicate["string_value"]]
    return found


_API = "/apis/v2beta1"
_ROUTES: list[tuple[str, str, str]] = [
    ("GET", f"{_API}/healthz", "healthz"),
    ("POST", f"{_API}/experiments", "create_experiment"),
    ("GET", f"{_API}/experiments", "list_experiments"),
    ("GET", f"{_API}/experiments/([^/:]+)", "get_experiment"),
    ("POST", f"{_API}/pipelines", "create_pipeline"),
    ("GET", f"{_API}/pipelines", "list_pipelines"),
    ("GET", f"{_API}/pipelines/([^/]+)/versions", "list_versions"),
    ("GET", f"{_API}/pipelines/([^/]+)/versions/([^/]+)", "get_version"),
    ("POST", f"{_API}/pipelines/upload_version", "upload_version"),
    ("POST", f"{_API}/runs", "create_run"),
    ("GET", f"{_API}/runs", "list_runs"),
    ("GET", f"{_API}/runs/([^/:]+)", "get_run"),
    ("POST", f"{_API}/runs/([^/:]+):retry", "retry_run"),
    ("POST", f"{_API}/runs/([^/:]+):terminate", "terminate_run"),
]


@contextlib.contextmanager
def serving(fake: FakeKfp) -> Iterator[FakeKfp]:
    """Serve on a free port of this machine; `fake.host` is the address."""
    released = threading.Event()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *values: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = parts.path
            fake.calls.append(f"{self.command} {path.removeprefix(_API)}")
            fake.headers.append(dict(self.headers))
            fault = next(
                (
                    one
                    for one in fake.faults
                    if one.times > 0
                    and one.method == self.command
                    and re.fullmatch(one.path, path.removeprefix(_API))
                ),
                None,
            )
            if fault is not None:
                fault.times -= 1
            what = fault.what if fault is not None else None
            if what == "hang":
                released.wait(20)
                what = "drop"
            if what == "drop":
                self.close_connection = True
                return
            if isinstance(what, int):
                self._send(what, {"error": "made up", "message": f"made up {what}", "code": 13})
                return
            if what == "html":
                self._send(200, None)
                return
            if fake.token is not None and self.headers.get("authorization") != (
                f"Bearer {fake.token}"
            ):
                self._send(401, {"message": f"no entry with {self.headers.get('authorization')}"})
                return
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            try:
                with lock:
                    kind = self.headers.get("Content-Type", "")
                    document = fake.answer(self.command, path, query, body, kind)
            except KeyError as error:
                self._send(404, {"message": f"{error} not found", "code": 5})
                return
            except FileExistsError as error:
                self._send(409, {"message": f"{error} exists already", "code": 6})
                return
            except (ValueError, PermissionError, json_format.ParseError) as error:
                self._send(400, {"message": str(error), "code": 3})
                return
            if what == "drop after":
                self.close_connection = True
                return
            self._send(200, document)

        def _send(self, status: int, document: Any) -> None:
            if document is None:
                kind, data = "text/html", b"<html>Please log in</html>"
            else:
                kind, data = "application/json", json.dumps(document, default=str).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "https://login.example/")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    fake.host = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
