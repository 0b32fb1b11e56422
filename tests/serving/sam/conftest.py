"""The SAM application's function with all that is around it on AWS, once for the tests here."""

from collections.abc import Iterator

import made_lambda
import pytest
from made_lambda import BUCKET, Aws


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with made_lambda.heard_server(tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture(scope="package")
def aws(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with made_lambda.application(server, tmp_path_factory.mktemp("zip") / "Web") as found:
        yield found


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
