"""The SAM application's function with all that is around it on AWS, once for the tests here."""

import socket
import threading
from collections.abc import Iterator

import made_lambda
import pytest
import uvicorn
from made_bundles import BandScorer, write_stages
from made_lambda import BUCKET, Aws

from birdsong.bundle import write_bundle
from birdsong.serving.limits import Limits


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """birdsong's server, as it stands in SageMaker's container."""
    from birdsong.serving.app import create_app

    folder = tmp_path_factory.mktemp("served")
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


@pytest.fixture(scope="package")
def aws(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    folder = made_lambda.build(tmp_path_factory.mktemp("zip") / "Web")
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
    with made_lambda.endpoint(server) as endpoint:
        environment = {
            **account,
            "AWS_ENDPOINT_URL_S3": place,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": endpoint.address,
            "ENDPOINT_NAME": "birdsong-live",
            "UPLOADS_BUCKET": BUCKET,
            "LARGEST_MEGABYTES": "64",
            "LONGEST_SECONDS": "1800",
            "ENDPOINT_READS_UPLOADS": "no",
        }
        with made_lambda.function(folder, environment) as function:
            yield Aws(function, endpoint, s3, folder, environment)
    moto.stop()


@pytest.fixture(autouse=True)
def afresh(request: pytest.FixtureRequest) -> None:
    """An endpoint that works and an empty bucket, for tests that have them."""
    if "aws" not in request.fixturenames:
        return
    aws: Aws = request.getfixturevalue("aws")
    for key in aws.stored():
        aws.s3.delete_object(Bucket=BUCKET, Key=key)
    aws.endpoint.works()
    aws.endpoint.seen.clear()
