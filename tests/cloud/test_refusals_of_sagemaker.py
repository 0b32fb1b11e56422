"""train as a job that AWS refuses or has no machine for: a clear error, or patience."""

from typing import Any

import pytest
from made_jobs import settings
from sagemaker_server.server import REGION, Server

from birdsong.aws import jobs
from birdsong.aws.clients import Account
from birdsong.config import TrainConfig
from birdsong.errors import BirdsongError, ConfigError, JobError, RefusedError, UnreachableError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


REFUSED = [
    (
        "CreateTrainingJob",
        "ResourceLimitExceeded",
        "The account-level service limit 'ml.g5.4xlarge for spot training job usage' is 0 "
        "Instances, with current utilization of 0 Instances and a request delta of 1 Instances.",
        RefusedError,
        "ml.g5.4xlarge for spot training job usage.*Service Quotas",
    ),
    (
        "CreateTrainingJob",
        "AccessDeniedException",
        "User: arn:aws:iam::1:user/me is not authorized to perform: sagemaker:CreateTrainingJob",
        RefusedError,
        "need the permission sagemaker:CreateTrainingJob",
    ),
    (
        "CreateTrainingJob",
        "AccessDeniedException",
        "User is not authorized to perform: iam:PassRole on resource: role",
        RefusedError,
        "need the permission iam:PassRole",
    ),
    (
        "DescribeTrainingJob",
        "ExpiredTokenException",
        "The security token included in the request is expired",
        RefusedError,
        "no longer valid.*Log in again",
    ),
    (
        "DescribeTrainingJob",
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        RefusedError,
        "no valid AWS credentials",
    ),
    (
        "GetBucketLocation|GetBucket",
        "AccessDenied",
        "Access Denied",
        RefusedError,
        "not one of the account 123456789012",
    ),
    (
        "CreateTrainingJob",
        "ValidationException",
        "The instance type ml.g5.4xlarge is not supported in this region",
        ConfigError,
        "AWS refuses the request: The instance type",
    ),
]


@pytest.mark.parametrize(
    ("action", "code", "message", "kind", "words"), REFUSED, ids=lambda v: str(v)[:24]
)
def test_a_refusal_says_what_is_missing_and_leaves_no_job(
    step: Any,
    server: Server,
    action: str,
    code: str,
    message: str,
    kind: type[BirdsongError],
    words: str,
) -> None:
    server.faults.add(action, code, message=message, times=99)
    with pytest.raises(kind, match=words):
        step()
    assert server.names == []


def test_a_bucket_in_another_region_is_refused_before_anything_is_sent(
    step: Any,
    server: Server,
) -> None:
    place = {"LocationConstraint": "eu-west-1"}
    client = server.client("s3", "eu-west-1")
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration=place)
    with pytest.raises(ConfigError, match="is in region eu-west-1, the jobs would run in us-east"):
        step(place="s3://far-away/birds")
    assert server.names == []
    assert "PutObject" not in server.faults.calls


def test_above_the_budget_nothing_is_started(step: Any, server: Server) -> None:
    with pytest.raises(ConfigError, match=r"above the budget of 1\.00 USD, so nothing was started"):
        step(budget_usd=1)
    assert server.names == []


def test_a_bucket_that_is_not_there_is_told(step: Any, server: Server) -> None:
    with pytest.raises(ConfigError, match="Check place in the file of --sagemaker"):
        step(place="s3://nobody-has-this/birds")


def test_throttling_is_waited_out(
    step: Any,
    server: Server,
) -> None:
    for action in ("DescribeTrainingJob", "CreateTrainingJob", "GetLogEvents"):
        server.faults.add(action, "throttle", times=2)
    step()
    assert len(server.faults.met) == 6
    assert len(server.names) == 1


@pytest.mark.slow
def test_a_question_is_asked_for_long_and_in_the_end_given_up(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step()
    monkeypatch.setattr("birdsong.aws.clients.ATTEMPTS", 2)
    server.faults.add("DescribeTrainingJob", "throttle", times=999)
    slow = Account(REGION, patience=4.0)
    with pytest.raises(UnreachableError, match="takes no more requests now"):
        jobs.Job(slow, jobs.TRAINING, server.names[0]).describe()
    assert "Asking again" in capsys.readouterr().out


def test_without_a_machine_another_job_follows_and_in_the_end_the_way_on_is_told(
    step: Any,
    server: Server,
) -> None:
    server.no_capacity.add("ml.g5.4xlarge")
    with pytest.raises(JobError, match=r"no spot machine ml\.g5\.4xlarge now.*take another"):
        step()
    assert [name[-2:] for name in server.names] == ["a1", "a2", "a3"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"role": "birdsong"}, "role"),
        ({"place": "MY-BUCKET/birds"}, "place"),
        ({"count": 2}, "spread over the GPUs of one machine"),
        ({"max_wait_hours": 1}, "below max_runtime_hours"),
        ({"subnets": ["subnet-1"]}, "give both or neither"),
        ({"instnace": "ml.g5.xlarge"}, "instnace"),
        ({"on_cancel": "maybe"}, "on_cancel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(**wrong)


@pytest.mark.parametrize("weights", ["weights.h5", "models:/birds/3", "file:///x.h5"])
def test_weights_that_a_job_cannot_see_are_refused(
    weights: str,
) -> None:
    from birdsong.aws import training_request

    with pytest.raises(ConfigError, match="sees no file of this machine"):
        training_request.check(TrainConfig(weights=weights))
