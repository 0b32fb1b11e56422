"""What stands around the SAM application's function on AWS, as far as it can be had here.

The function's zip is filled by its own Makefile, as `sam build` does it, and run by Lambda's own
runtime client (awslambdaric), which asks `Runtime` here for its events. `FrontDoor` does what
CloudFront and the function URL do to a request; `Endpoint` answers as SageMaker's runtime does,
with birdsong's own server behind it.
"""

import base64
import contextlib
import gzip
import hashlib
import http.client
import http.server
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "birdsong" / "serving" / "sam"
API = "/2018-06-01/runtime"
Event = dict[str, Any]
BUCKET = "birdsong-uploads-0b1c2d3e"


def build(folder: Path) -> Path:
    """Fill the function's zip, as `sam build` does: make, in the folder above."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["make", "-s", "-f", FOLDER / "Makefile", "build-Web", f"ARTIFACTS_DIR={folder}"],
        cwd=FOLDER.parent,
        check=True,
    )
    return folder


def event(
    method: str,
    path: str,
    body: object = None,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    encoded: bool = False,
) -> Event:
    """A request as a function URL gives it (payload format 2.0)."""
    text = body if isinstance(body, str) or body is None else json.dumps(body)
    if encoded and text is not None:
        text = base64.b64encode(text.encode()).decode()
    host = "0123456789abcdefghijklmnopqrstuv.lambda-url.eu-west-1.on.aws"
    made: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "host": host,
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-proto": "https",
            "x-forwarded-port": "443",
            "x-amz-content-sha256": hashlib.sha256((text or "").encode()).hexdigest(),
            "x-amzn-trace-id": "Root=1-5e272390-8c398be037738dc042009320",
            "via": "2.0 0123456789abcdef.cloudfront.net (CloudFront)",
            "user-agent": "Amazon CloudFront",
            **({} if text is None else {"content-type": "application/json"}),
            **(headers or {}),
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": host.partition(".")[0],
            "authentication": None,
            "authorizer": {"iam": {"accountId": "123456789012", "userArn": "arn:aws:sts:::x"}},
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "Amazon CloudFront",
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": "25/Nov/2026:09:00:00 +0000",
            "timeEpoch": 1795597200000,
        },
        "isBase64Encoded": encoded,
    }
    if text is not None:
        made["body"] = text
    if query:
        made["queryStringParameters"] = dict(urllib.parse.parse_qsl(query, True))
    return made


class Quiet(http.server.BaseHTTPRequestHandler):
    """Writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(handler: type[Quiet]) -> Iterator[int]:
    """Serve on a free port of the loopback address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Runtime:
    """Lambda's runtime API, and the function that asks it.

    Attributes:
        address: Where the API answers.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._events: queue.Queue[tuple[str, Event]] = queue.Queue()
        self._answers: dict[str, queue.Queue[dict[str, Any]]] = {}

    def invoke(self, sent: Event, seconds: float = 60) -> dict[str, Any]:
        """The function's response to an event."""
        name = str(uuid.uuid4())
        answer = self._answers[name] = queue.Queue()
        self._events.put((name, sent))
        return answer.get(timeout=seconds)


@contextlib.contextmanager
def runtime(host: str = "127.0.0.1") -> Iterator[Runtime]:
    """Serve the runtime API."""
    made = Runtime("")

    class Api(Quiet):
        def do_GET(self) -> None:
            name, sent = made._events.get()
            self.reply(
                200,
                json.dumps(sent).encode(),
                {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": name,
                    "Lambda-Runtime-Deadline-Ms": "4102444800000",
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:w",
                    "Lambda-Runtime-Trace-Id": "Root=1-5e272390-8c398be037738dc042009320",
                },
            )

        def do_POST(self) -> None:
            told = json.loads(self.content() or b"null")
            name = self.path.removeprefix(f"{API}/invocation/").partition("/")[0]
            failed = self.path.endswith("/error")
            if name in made._answers:
                made._answers[name].put({"failed": told} if failed else told)
            self.reply(202, b"{}")

    with serving(Api) as port:
        made.address = f"{host}:{port}"
        yield made


@contextlib.contextmanager
def function(folder: Path, environment: Mapping[str, str]) -> Iterator[Runtime]:
    """Run the built function by Lambda's own runtime client, as a process."""
    with runtime() as made:
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", "handler.handle"],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(folder),
                "AWS_LAMBDA_RUNTIME_API": made.address,
                "AWS_LAMBDA_FUNCTION_NAME": "web",
                "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
                "LAMBDA_TASK_ROOT": str(folder),
                **environment,
            },
        )
        try:
            yield made
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def front_door(invoke: Any) -> Iterator[str]:
    """CloudFront and the function URL: requests as events, and their signature's condition."""

    class Door(Quiet):
        def answer(self) -> None:
            body = self.content()
            path, _, query = self.path.partition("?")
            # Signed access covers the body by its hash, which CloudFront takes from the viewer.
            told = self.headers.get("x-amz-content-sha256")
            if body and told != hashlib.sha256(body).hexdigest():
                self.reply(403, b'{"Message":"The request signature does not match"}')
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = invoke(
                event(self.command, path, body.decode() if body else None, query, headers)
            )
            text = response["body"]
            data = base64.b64decode(text) if response["isBase64Encoded"] else text.encode()
            self.reply(response["statusCode"], data, response["headers"])

        do_GET = do_HEAD = do_POST = answer

    with serving(Door) as port:
        # A secure context for browsers, like https.
        yield f"http://localhost:{port}"


class Endpoint:
    """How SageMaker's runtime answers next.

    Attributes:
        failure: Status and JSON of an error to answer with; None: ask the server behind it.
        seconds: To wait before an answer.
        seen: Content type and length of each body that came.
    """

    def __init__(self) -> None:
        self.failure: tuple[int, dict[str, Any]] | None = None
        self.hangs = threading.Event()
        self.seen: list[tuple[str, bytes]] = []
        self.address = ""

    def fails(self, status: int, kind: str, message: str = "", **more: object) -> None:
        """Answer the next requests with one of SageMaker's errors."""
        self.failure = (status, {"__type": kind, "message": message, **more})

    def works(self) -> None:
        """Answer by the server again."""
        self.failure = None


@contextlib.contextmanager
def endpoint(server: str, name: str = "birdsong-live") -> Iterator[Endpoint]:
    """SageMaker's runtime over HTTP.

    Args:
        server: Host and port of the server in the container.
        name: Of the one endpoint that is there.
    """
    made = Endpoint()

    class Api(Quiet):
        def error(self, status: int, body: dict[str, Any]) -> None:
            self.reply(
                status,
                json.dumps(body).encode(),
                {"Content-Type": "application/json", "x-amzn-ErrorType": body["__type"]},
            )

        def do_POST(self) -> None:
            body = self.content()
            kind = self.headers.get("Content-Type", "")
            made.seen.append((kind, body))
            if made.failure is not None:
                self.error(*made.failure)
            elif self.path != f"/endpoints/{name}/invocations":
                self.error(
                    400,
                    {
                        "__type": "ValidationError",
                        "message": f"Endpoint {self.path.split('/')[2]} of account 123456789012 "
                        "not found.",
                    },
                )
            else:
                self.ask(body, kind)

        def ask(self, body: bytes, kind: str) -> None:
            asked = self.headers.get("X-Amzn-SageMaker-Custom-Attributes", "")
            inner = http.client.HTTPConnection(server, timeout=30)
            with contextlib.closing(inner):
                headers = {"Content-Type": kind, "X-Amzn-SageMaker-Custom-Attributes": asked}
                inner.request("POST", "/invocations", body, headers)
                found = inner.getresponse()
                told = found.read()
            if found.status == 200:
                self.reply(200, told, {"Content-Type": "application/json"})
                return
            self.error(
                424,
                {
                    "__type": "ModelError",
                    "message": f"Received client error ({found.status}) from primary with message",
                    "OriginalStatusCode": found.status,
                    "OriginalMessage": told.decode(),
                    "LogStreamArn": "arn:aws:logs:::log",
                },
            )

    with serving(Api) as port:
        made.address = f"http://127.0.0.1:{port}"
        yield made


@dataclass
class Aws:
    """The function, and what is around it."""

    function: Runtime
    endpoint: Endpoint
    s3: Any
    folder: Path
    environment: dict[str, str]

    def ask(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        """A response of the function, its body decoded."""
        response = self.function.invoke(event(*arguments, **more))
        if response["isBase64Encoded"]:
            response["body"] = base64.b64decode(response["body"])
        if response["headers"].get("Content-Encoding") == "gzip":
            response["body"] = gzip.decompress(response["body"])
        return response

    def upload(self, data: bytes, kind: str = "audio/wav", name: str = "a.wav") -> str:
        """Send a file as the page does; its key."""
        sent = {"name": name, "size": len(data), "type": kind}
        given = json.loads(self.ask("POST", "/uploads", sent)["body"])
        form = httpx.post(
            given["url"], data=given["fields"], files={"file": (name, data)}, trust_env=False
        )
        assert form.status_code in (200, 204), form.text
        return str(given["key"])

    def stored(self) -> list[str]:
        """What lies in the bucket."""
        found = self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [one["Key"] for one in found]


@contextlib.contextmanager
def heard_server(folder: Path) -> Iterator[str]:
    """birdsong's server, as it stands in SageMaker's container; host and port."""
    import uvicorn
    from made_bundles import BandScorer, write_stages

    from birdsong.bundle import write_bundle
    from birdsong.serving.app import create_app
    from birdsong.serving.limits import Limits

    stages = write_stages(folder / "run")
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    limits = Limits(allow_uris=(f"s3://{BUCKET}/uploads/",))
    app = create_app(folder / "bundle", version="7", scorer=BandScorer(), limits=limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        uvicorn_server.should_exit = True
        thread.join(20)


Run = Callable[[Path, Mapping[str, str]], contextlib.AbstractContextManager[Runtime]]


@contextlib.contextmanager
def application(server: str, folder: Path, run: Run = function) -> Iterator[Aws]:
    """The function with a bucket of moto's and an endpoint.

    Args:
        server: Host and port of the server behind the endpoint.
        folder: Where the function's zip is filled.
        run: Runs the function.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    build(folder)
    place = "http://{}:{}".format(*moto.get_host_and_port())
    account = {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_SESSION_TOKEN": "made-up-too",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    s3 = boto3.client(
        "s3", "eu-west-1", endpoint_url=place, aws_access_key_id="a", aws_secret_access_key="b"
    )
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with endpoint(server) as made:
        environment = {
            **account,
            "AWS_ENDPOINT_URL_S3": place,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": made.address,
            "ENDPOINT_NAME": "birdsong-live",
            "UPLOADS_BUCKET": BUCKET,
            "LARGEST_MEGABYTES": "64",
            "LONGEST_SECONDS": "1800",
            "ENDPOINT_READS_UPLOADS": "no",
        }
        with run(folder, environment) as answers:
            yield Aws(answers, made, s3, folder, environment)
    moto.stop()
