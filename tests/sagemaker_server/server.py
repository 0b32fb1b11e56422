"""One HTTP server on this machine: our actions in front, moto behind them."""

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from sagemaker_server import endpoints, jobs, packages, tuning  # noqa: F401  # they register their actions
from sagemaker_server.api import ACTIONS, ApiError, Json, PassOn, Store
from sagemaker_server.faults import OWN, Faults, name_of
from sagemaker_server.programs import Process, Program
from sagemaker_server.serving import SERVE, Serves

REGION = "us-east-1"
BUCKET = "birdsong-test"

_REGION = re.compile(r"Credential=[^/]+/\d+/([a-z0-9-]+)/")


@dataclass
class Interruption:
    """Takes the machine away from a job when a line of its log matches."""

    pattern: str
    hard: bool


class Server:
    """The server; `running` starts and stops it.

    Attributes:
        program: What jobs run.
        faults: Faults on command, and the calls that came.
        pace: Seconds of each state that a job only passes through.
        sync_seconds: Between two copies of the checkpoints to S3.
        lose_last_sync: Whether what a job wrote after the last copy is lost with its machine.
        no_capacity: Instance types that are not to be had.
        serves: What endpoints run.
        broken_models: Names of models whose containers do not pass the health check.
        alarms: Names of alarms that go off during a deployment.
        address: http://127.0.0.1:PORT
    """

    def __init__(self, program: Program | None = None) -> None:
        self.program: Program = program or Process()
        self.faults = Faults()
        self.store = Store()
        self.pace, self.sync_seconds, self.lose_last_sync = 0.02, 0.2, False
        self.no_capacity: set[str] = set()
        self.interruptions: list[Interruption] = []
        self.registry, self.hosting = packages.Registry(), endpoints.Hosting()
        self.serves: Serves = SERVE
        self.broken_models: set[str] = set()
        self.alarms: set[str] = set()
        self.scratch = Path(tempfile.mkdtemp(prefix="sagemaker-server-"))
        self.address = ""
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], Any] = {}
        self._http: Any = None

    # --- on command -----------------------------------------------------------------------------

    def interrupt_at(self, pattern: str, *, hard: bool = False) -> None:
        """Take the machine away from the next job whose log has a matching line, once."""
        with self._lock:
            self.interruptions.append(Interruption(pattern, hard))

    def interruption(self, job: jobs.TrainingJob, line: str) -> bool | None:
        """Whether a line means the end of a job's machine: None, or whether at once."""
        if not job.request.get("EnableManagedSpotTraining"):
            return None
        with self._lock:
            for one in self.interruptions:
                if re.search(one.pattern, line):
                    self.interruptions.remove(one)
                    return one.hard
        return None

    def capacity(self, request: Json) -> str:
        kind = request["ResourceConfig"].get("InstanceType", "")
        if kind not in self.no_capacity:
            return ""
        return (
            "CapacityError: Unable to provision requested ML compute capacity. Please retry using "
            "a different ML instance type."
        )

    def job(self, name: str, region: str = REGION) -> jobs.TrainingJob:
        """A training job by its name."""
        return jobs.find(self, region, name)

    @property
    def names(self) -> list[str]:
        """Names of all training jobs, in the order of their start."""
        return [name for _, name in self.store.training]

    @property
    def at_work(self) -> list[str]:
        """Names of all jobs that are not over."""
        every = [*self.store.training.items(), *self.store.tuning.items()]
        return [name for (_, name), job in every if job.status not in jobs.OVER]

    def client(self, service: str, region: str) -> Any:
        """A client of this very server, for what SageMaker itself does."""
        with self._lock:
            if (service, region) not in self._clients:
                import boto3
                from botocore.config import Config

                self._clients[service, region] = boto3.session.Session().client(
                    service,
                    region_name=region,
                    endpoint_url=self.address,
                    aws_access_key_id="server",
                    aws_secret_access_key="server",
                    config=Config(user_agent_extra=OWN, s3={"addressing_style": "path"}),
                )
            return self._clients[service, region]

    # --- serving --------------------------------------------------------------------------------

    @contextmanager
    def running(self, port: int = 0) -> Iterator["Server"]:
        """Serve on 127.0.0.1, with an empty state and one bucket."""
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._http = make_server(
            "127.0.0.1", port, self, threaded=True, request_handler=MotoRequestHandler
        )
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        thread.start()
        try:
            self._reset_moto()
            self.client("s3", REGION).create_bucket(Bucket=BUCKET)
            yield self
        finally:
            self.faults.clear()
            self.faults.stopped.set()
            for job in list(self.store.training.values()):
                job._end("Stopped", hard=True)
            for job in [*self.store.training.values(), *self.store.tuning.values()]:
                job.thread.join(20)
            for endpoint in list(self.hosting.endpoints.values()):
                endpoint.stop()
            self._http.shutdown()
            thread.join()
            self._http.server_close()
            for client in self._clients.values():
                client.close()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _reset_moto(self) -> None:
        import urllib.request

        request = urllib.request.Request(f"{self.address}/moto-api/reset", method="POST")  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        body = None
        if "HTTP_X_AMZ_TARGET" in environ or "form-urlencoded" in environ.get("CONTENT_TYPE", ""):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = BytesIO(body)

        def carry_out(respond: Callable[..., Any] = start_response) -> Iterable[bytes]:
            return self._answer(environ, body, respond)

        if OWN in environ.get("HTTP_USER_AGENT", "") or "moto-api" in environ["PATH_INFO"]:
            return carry_out()
        fault = self.faults.take(name_of(environ, body))
        if fault is None:
            return carry_out()
        told = self.faults.apply(fault, environ, lambda: carry_out(lambda *_, **__: None))
        if told is None:
            raise ConnectionAbortedError  # werkzeug closes the connection without a word
        status, text, kind = told
        start_response(f"{status} Fault", [("Content-Type", kind)])
        return [text]

    def _answer(
        self, environ: dict[str, Any], body: bytes | None, start_response: Any
    ) -> Iterable[bytes]:
        invoked = endpoints.INVOCATION.match(environ["PATH_INFO"])
        if invoked:
            place = _REGION.search(environ.get("HTTP_AUTHORIZATION", ""))
            region = place[1] if place else REGION
            return endpoints.invoke(self, region, invoked[1], environ, start_response)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        wanted = ACTIONS.get(target.rpartition(".")[2]) if target.startswith("SageMaker.") else None
        if wanted is not None:
            found = _REGION.search(environ.get("HTTP_AUTHORIZATION", ""))
            try:
                answer = wanted(self, found[1] if found else REGION, json.loads(body or b"{}"))
                status, text = "200 OK", json.dumps(answer).encode()
            except ApiError as error:
                status, text = f"{error.status} Error", error.body()
            except PassOn:
                return self._moto(environ, start_response)  # type: ignore[no-any-return]
            start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
            return [text]
        return self._moto(environ, start_response)  # type: ignore[no-any-return]
