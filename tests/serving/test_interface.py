"""Requests made from the OpenAPI document by schemathesis: what it promises, the server keeps."""

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from made_bundles import BandScorer, write_stages
from made_recordings import song
from made_servers import served
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from birdsong.bundle import write_bundle
from birdsong.serving.limits import Limits


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("promised")
    stages = write_stages(folder / "run", golden=1)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    with served(folder / "bundle", BandScorer(), Limits(longest_seconds=600)) as client:
        yield client


@pytest.mark.parametrize("count", [pytest.param(15), pytest.param(1_000, marks=pytest.mark.slow)])
def test_generated_requests_get_answers_as_the_document_says(
    client: httpx.Client, count: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    schemathesis.checks.load_all_checks()
    # Made bytes are hardly ever a recording, so what fits the schema may still be refused.
    left_out = [CHECKS.get_one("positive_data_acceptance")]
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        # What breaks the schema must be refused; only a recording has something to break.
        modes = [GenerationMode.POSITIVE]
        if operation.method == "post":
            modes.append(GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=count,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(excluded_checks=left_out)

            ask()
    assert asked > count
    print(f"result: {asked} generated requests, each answered as the document says")


def test_answers_to_real_recordings_fit_the_document(client: httpx.Client) -> None:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    operation = schema["/invocations"]["POST"]
    for scores in ("detections", "all", "frames"):
        response = client.post(
            f"/invocations?scores={scores}",
            content=song("ogg"),
            headers={"Content-Type": "audio/ogg"},
        )
        assert response.status_code == 200
        operation.validate_response(response)
