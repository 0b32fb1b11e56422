"""The SAM application's function in a container, as Lambda runs it: read-only, without rights.

Lambda's own image cannot be pulled here; ours for data has what it needs of it, Python and boto3.
Lambda's runtime client is taken from this environment, its runtime API, the bucket and the endpoint
are made_lambda's.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import awslambdaric
import made_lambda
import pytest
from made_bundles import CODES, TONES_HZ
from made_lambda import Aws, Runtime
from made_recordings import song

from components import images

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("engine"),
    # botocore and moto leave pooled connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@contextlib.contextmanager
def in_container(task: Path, environment: Mapping[str, str]) -> Iterator[Runtime]:
    """Run the built function by Lambda's own runtime client, in a container."""
    packages, client = Path(awslambdaric.__file__).parents[1], task.with_name("runtime")
    for name in ("awslambdaric", "simplejson"):
        shutil.copytree(packages / name, client / name)
    for name in ("runtime_client*.so", "snapshot_restore_py.py"):
        for file in packages.glob(name):
            shutil.copy2(file, client)
    name = f"birdsong-function-{os.getpid()}"
    with made_lambda.runtime() as api:
        settings = {
            **environment,
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "LAMBDA_TASK_ROOT": "/var/task",
            "PYTHONPATH": "/var/task:/var/runtime",
        }
        subprocess.run(
            [
                *("docker", "run", "--detach", "--name", name, "--network", "host"),
                *("--read-only", "--user", "993:990", "--memory", "512m", "--cap-drop", "ALL"),
                *("--volume", f"{task}:/var/task:ro"),
                *("--volume", f"{client}:/var/runtime:ro"),
                *(part for item in settings.items() for part in ("--env", "=".join(item))),
                *("--workdir", "/var/task", images.reference("data")),
                *("python", "-m", "awslambdaric", "handler.handle"),
            ],
            check=True,
            capture_output=True,
        )
        try:
            yield api
        finally:
            subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    folder = tmp_path_factory.mktemp("lambda")
    with (
        made_lambda.heard_server(folder / "served") as server,
        made_lambda.application(server, folder / "task", in_container) as found,
    ):
        yield found


def test_the_function_answers_events_in_a_container(aws: Aws) -> None:
    page = aws.ask("GET", "/")
    assert page["statusCode"] == 200
    assert page["headers"]["Content-Type"].startswith("text/html")
    assert json.loads(aws.ask("GET", "/settings")["body"])["model"] == "birdsong-live"
    wrong = aws.ask("POST", "/listen", {"key": "secrets.txt"})
    assert (wrong["statusCode"], json.loads(wrong["body"])["code"]) == (400, "key")
    assert aws.function.invoke({"Records": []})["statusCode"] == 400


def test_an_uploaded_recording_is_heard_by_the_endpoint_and_deleted(aws: Aws) -> None:
    key = aws.upload(song("ogg", TONES_HZ[1], 6), "audio/ogg", "a.ogg")
    assert aws.stored() == [key]
    response = aws.ask("POST", "/listen", {"key": key})
    assert response["statusCode"] == 200
    (window,) = json.loads(response["body"])["windows"]
    assert [found["code"] for found in window["detections"]] == [CODES[1]]
    assert aws.stored() == []
