"""The SAM application's function in a container, as Lambda runs it: read-only, without rights.

Lambda's own image cannot be pulled here; ours for data has what it needs of it, Python and boto3.
Lambda's runtime client is taken from this environment, its runtime API is made_lambda's.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import awslambdaric
import made_lambda
import pytest
from made_lambda import Runtime, event

from components import images

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "made-up",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "ENDPOINT_NAME": "birdsong-live",
    "UPLOADS_BUCKET": "birdsong-uploads-0b1c2d3e",
    "LARGEST_MEGABYTES": "6",
    "LONGEST_SECONDS": "1800",
    "LAMBDA_TASK_ROOT": "/var/task",
    "PYTHONPATH": "/var/task:/var/runtime",
}


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("lambda")
    task = made_lambda.build(folder / "task")
    packages, runtime = Path(awslambdaric.__file__).parents[1], folder / "runtime"
    for name in ("awslambdaric", "simplejson"):
        shutil.copytree(packages / name, runtime / name)
    for name in ("runtime_client*.so", "snapshot_restore_py.py"):
        for file in packages.glob(name):
            shutil.copy2(file, runtime)
    name = f"birdsong-function-{os.getpid()}"
    with made_lambda.runtime() as api:
        settings = {**ENVIRONMENT, "AWS_LAMBDA_RUNTIME_API": api.address}
        subprocess.run(
            [
                *("docker", "run", "--detach", "--name", name, "--network", "host"),
                *("--read-only", "--user", "993:990", "--memory", "512m", "--cap-drop", "ALL"),
                *("--volume", f"{task}:/var/task:ro"),
                *("--volume", f"{runtime}:/var/runtime:ro"),
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


def test_the_function_answers_events_in_a_container(function: Runtime) -> None:
    page = function.invoke(event("GET", "/"))
    assert page["statusCode"] == 200
    assert page["headers"]["Content-Type"].startswith("text/html")
    told = json.loads(function.invoke(event("GET", "/settings"))["body"])
    assert told["model"] == "birdsong-live"
    sent = {"name": "a.ogg", "size": 100, "type": "audio/ogg"}
    given = json.loads(function.invoke(event("POST", "/uploads", sent))["body"])
    # Without an endpoint of moto's this is where browsers really send to.
    assert given["url"] == "https://birdsong-uploads-0b1c2d3e.s3.eu-west-1.amazonaws.com/"
    wrong = function.invoke(event("POST", "/listen", {"key": "secrets.txt"}))
    assert (wrong["statusCode"], json.loads(wrong["body"])["code"]) == (400, "key")
    broken = function.invoke({"Records": []})
    assert broken["statusCode"] == 400
