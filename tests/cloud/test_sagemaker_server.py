"""The test server itself: what the other tests rely on."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sagemaker_server.server import BUCKET, REGION, Server

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def connect(server: Server, read_seconds: float = 60) -> dict[str, Any]:
    """Clients that ask once, and wait so long for an answer."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session(
        aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION
    )
    config = Config(retries={"total_max_attempts": 1}, read_timeout=read_seconds)
    return {
        name: session.client(name, endpoint_url=server.address, config=config)
        for name in ("sagemaker", "logs", "s3")
    }


@pytest.fixture
def clients(server: Server) -> Iterator[dict[str, Any]]:
    made = connect(server)
    made["s3"].put_object(Bucket=BUCKET, Key="data/a", Body=b"1")
    yield made
    for client in made.values():
        client.close()


def request(name: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "MetricDefinitions": [
                {"Name": "accuracy", "Regex": "metric validation_accuracy=([0-9.]+)"}
            ],
        },
        "RoleArn": "arn:aws:iam::123456789012:role/birdsong",
        "HyperParameters": {"epochs": "4"},
        "InputDataConfig": [
            {
                "ChannelName": "data",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"s3://{BUCKET}/data/",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {
            "InstanceType": "ml.g5.4xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 30,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
        "EnableManagedSpotTraining": True,
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints/{name}/"},
    }
    return {**found, **more}


def ended(client: Any, name: str) -> dict[str, Any]:
    for _ in range(600):
        found: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
        if found["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def lines(client: Any, name: str) -> list[str]:
    group = "/aws/sagemaker/TrainingJobs"
    streams = client.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")
    return [
        event["message"]
        for stream in streams["logStreams"]
        for event in client.get_log_events(
            logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
        )["events"]
    ]


def test_an_interrupted_job_goes_on_from_its_checkpoint(
    server: Server,
    clients: dict[str, Any],
) -> None:
    server.interrupt_at("epoch 2/4")
    sagemaker = clients["sagemaker"]
    sagemaker.create_training_job(**request("one"))
    found = ended(sagemaker, "one")
    assert found["TrainingJobStatus"] == "Completed"
    states = [one["Status"] for one in found["SecondaryStatusTransitions"]]
    assert states == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    told = lines(clients["logs"], "one")
    # The program may have come one epoch further before the signal reached it.
    assert any(line.startswith("train: goes on after epoch ") for line in told)
    # It may also have kept an epoch without having told it.
    assert all(told.count(f"train: epoch {number}/4") <= 1 for number in (1, 2, 3, 4))
    assert found["FinalMetricDataList"][0]["MetricName"] == "accuracy"
    assert found["BillableTimeInSeconds"] <= found["TrainingTimeInSeconds"]
    body = io.BytesIO()
    clients["s3"].download_fileobj(BUCKET, "out/one/output/model.tar.gz", body)
    assert body.tell() > 100
    streams = clients["logs"].describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")
    assert len(streams["logStreams"]) == 2


def test_a_used_name_is_refused_and_a_stopped_job_stops(
    server: Server,
    clients: dict[str, Any],
) -> None:
    sagemaker = clients["sagemaker"]
    sagemaker.create_training_job(**request("one", HyperParameters={"epochs": "9999"}))
    with pytest.raises(sagemaker.exceptions.ResourceInUse, match="already exists"):
        sagemaker.create_training_job(**request("one"))
    for _ in range(200):
        if server.job("one").secondary == "Training":
            break
        time.sleep(0.05)
    sagemaker.stop_training_job(TrainingJobName="one")
    assert ended(sagemaker, "one")["SecondaryStatus"] == "Stopped"
    with pytest.raises(sagemaker.exceptions.ClientError, match="in status Stopped"):
        sagemaker.stop_training_job(TrainingJobName="one")
    with pytest.raises(sagemaker.exceptions.ClientError, match="not found"):
        sagemaker.stop_training_job(TrainingJobName="other")


def test_a_failure_carries_the_file_failure_and_too_long_a_job_is_stopped(
    server: Server,
    clients: dict[str, Any],
) -> None:
    sagemaker = clients["sagemaker"]
    wrong = {"learning_rate": "1", "birdsong_made_fail": "0.5"}
    sagemaker.create_training_job(**request("bad", HyperParameters=wrong))
    long = {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 2}
    many = {"epochs": "9999"}
    sagemaker.create_training_job(**request("long", StoppingCondition=long, HyperParameters=many))
    found = ended(sagemaker, "bad")
    assert found["FailureReason"] == (
        "AlgorithmError: learning_rate 1.0 is above 0.5., exit code: 1"
    )
    assert ended(sagemaker, "long")["SecondaryStatus"] == "MaxRuntimeExceeded"


def test_a_search_runs_its_trials_and_knows_the_best(
    server: Server,
    clients: dict[str, Any],
) -> None:
    definition = request("unused")
    for name in ("TrainingJobName",):
        del definition[name]
    definition["StaticHyperParameters"] = {
        **definition.pop("HyperParameters"),
        "birdsong_made_fail": "0.0005",
    }
    sagemaker = clients["sagemaker"]
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="search",
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "RandomSeed": 1,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "accuracy"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 5, "MaxParallelTrainingJobs": 3},
            "ParameterRanges": {
                "ContinuousParameterRanges": [
                    {"Name": "learning_rate", "MinValue": "0.00001", "MaxValue": "0.001"}
                ]
            },
        },
        TrainingJobDefinition=definition,
    )
    for _ in range(600):
        found = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
        if found["HyperParameterTuningJobStatus"] != "InProgress":
            break
        time.sleep(0.05)
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    counted = found["TrainingJobStatusCounters"]
    assert counted["Completed"] + counted["NonRetryableError"] == 5
    assert counted["NonRetryableError"] > 0
    rows = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="search", MaxResults=3
    )
    assert len(rows["TrainingJobSummaries"]) == 3
    assert rows["NextToken"]
    best = found["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    values = [
        row["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        for row in rows["TrainingJobSummaries"]
        if row["TrainingJobStatus"] == "Completed"
    ]
    assert best >= max(values, default=0)


@pytest.mark.parametrize(
    ("kind", "error", "made"),
    [
        ("throttle", "ThrottlingException", False),
        ("500", "InternalFailure", False),
        ("reset", "Connection was closed", True),
        ("lost", "Connection was closed", False),
        ("timeout", "Read timeout", True),
        ("ExpiredTokenException", "ExpiredTokenException", False),
    ],
)
def test_faults_come_on_command(
    server: Server,
    clients: dict[str, Any],
    kind: str,
    error: str,
    made: bool,
) -> None:
    server.faults.add("CreateTrainingJob", kind)
    sagemaker = connect(server, 2)["sagemaker"] if kind == "timeout" else clients["sagemaker"]
    with pytest.raises(Exception, match=error):
        sagemaker.create_training_job(**request("one"))
    assert server.names == (["one"] if made else [])
    assert server.faults.met == [("CreateTrainingJob", kind)]
    assert "CreateTrainingJob" in server.faults.calls


def test_the_server_also_keeps_large_objects_in_parts(
    server: Server,
    clients: dict[str, Any],
) -> None:
    from boto3.s3.transfer import TransferConfig

    data = os.urandom(11 << 20)
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    clients["s3"].upload_fileobj(io.BytesIO(data), BUCKET, "large", Config=parts)
    assert server.faults.calls.count("UploadPart") == 3
    body = io.BytesIO()
    clients["s3"].download_fileobj(BUCKET, "large", body)
    assert body.getvalue() == data


def test_a_name_outside_of_this_machine_is_not_resolved(
    surroundings: dict[str, str],
    resolved: Path,
) -> None:
    code = "import urllib.request as r; r.urlopen('http://sagemaker.us-east-1.amazonaws.com/')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "tests resolve no name outside" in done.stderr
    assert resolved.read_text() == "sagemaker.us-east-1.amazonaws.com\n"
    with pytest.raises(OSError, match="tests resolve no name outside"):
        socket.create_connection(("example.org", 80))
    assert resolved.read_text().splitlines()[1:] == ["example.org"]
    resolved.unlink()
