"""Training jobs: their life, their machine, and what interrupts them."""

import json
import re
import shutil
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagemaker_server import bucket, logs
from sagemaker_server.api import ApiError, Json, action, arn, check_name, now, page

if TYPE_CHECKING:
    from sagemaker_server.server import Server

OVER = ("Completed", "Failed", "Stopped")


class TrainingJob:
    """One training job; `run` is its life, in a thread of its own.

    Attributes:
        request: As CreateTrainingJob got it.
        attempts: How often its machine was started.
    """

    def __init__(self, server: "Server", region: str, request: Json) -> None:
        self.server, self.region, self.request = server, region, request
        self.name: str = request["TrainingJobName"]
        self.arn = arn(region, "training-job", self.name)
        self.created = self.changed = now()
        self.status, self.secondary, self.failure = "InProgress", "Starting", ""
        self.transitions: list[Json] = []
        self.metrics: dict[str, Json] = {}
        self.times: dict[str, float] = {}
        self.attempts, self.trained, self.billed = 0, 0.0, 0.0
        self._why, self._running = "", None
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._to("InProgress", "Starting", "Preparing the instances for training")
        self.thread = threading.Thread(target=self._run, daemon=True)

    # --- what others do to it -------------------------------------------------------------------

    def stop(self) -> None:
        """As StopTrainingJob."""
        with self._lock:
            if self.status != "InProgress":
                raise ApiError(
                    "ValidationException",
                    "The request was rejected because the training job is in status "
                    f"{self.status}.",
                )
            self._to("Stopping", "Stopping", "Stopping the training job")
            self._end("Stopped")

    def interrupt(self, *, hard: bool = False) -> None:
        """Take its spot machine away; it gets another one."""
        with self._lock:
            if self.status == "InProgress" and self._running is not None:
                self._end("Interrupted", hard=hard)

    def _end(self, why: str, *, hard: bool = False) -> None:
        self._why = self._why or why
        self._stopped.set()
        if self._running is not None:
            thread = threading.Thread(target=self._running.end, kwargs={"hard": hard}, daemon=True)
            thread.start()

    # --- its life -------------------------------------------------------------------------------

    def _to(self, status: str, secondary: str, message: str = "") -> None:
        with self._lock:
            self.status, self.secondary, self.changed = status, secondary, now()
            if self.transitions:
                self.transitions[-1].setdefault("EndTime", now())
            one: Json = {"Status": secondary, "StartTime": now(), "StatusMessage": message}
            if status in OVER:
                one["EndTime"] = now()
            self.transitions.append(one)

    def _run(self) -> None:
        try:
            self._live()
        except Exception as error:
            traceback.print_exc()
            self.failure = f"InternalServerError: {error}"
            self._to("Failed", "Failed")

    def _live(self) -> None:
        server, s3 = self.server, self.server.client("s3", self.region)
        capacity = server.capacity(self.request)
        if capacity:
            self.failure = capacity
            self._to("Failed", "Failed", capacity)
            return
        while True:
            self.attempts += 1
            root = Path(tempfile.mkdtemp(prefix="ml-", dir=server.scratch))
            try:
                exit_code = self._once(root, s3)
                if self._why == "Interrupted":
                    self._why = ""
                    self._stopped.clear()
                    self._to("InProgress", "Interrupted", "Managed spot training interrupted")
                    time.sleep(server.pace)
                    self._to("InProgress", "Starting", "Launching requested ML instances")
                    continue
                self._finish(root, s3, exit_code)
                return
            finally:
                shutil.rmtree(root, ignore_errors=True)

    def _once(self, root: Path, s3: Any) -> int:
        """One machine: from the download to the end of the program."""
        request, server = self.request, self.server
        stream = logs.Stream(server.client("logs", self.region), self.name)
        if not self._why:
            self._to("InProgress", "Downloading", "Downloading input data")
        self._lay_out(root, s3)
        time.sleep(server.pace)
        kept = (request.get("CheckpointConfig") or {}).get("S3Uri")
        mirror = None
        if kept:
            bucket.down(s3, kept, root / "checkpoints")
            mirror = bucket.Mirror(s3, root / "checkpoints", kept)
        environment = {
            **(request.get("Environment") or {}),
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": self.arn,
            "AWS_REGION": self.region,
        }
        image = request["AlgorithmSpecification"]["TrainingImage"]
        with self._lock:
            if self._why:
                return 143
            self._to("InProgress", "Training", "Training image download completed")
            self._running = server.program.start(image, root, environment)
        self.times.setdefault("TrainingStartTime", now())
        began, synced = time.monotonic(), threading.Event()
        limit = request["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400) - self.trained
        timer = threading.Timer(max(limit, 0), self._end, ["MaxRuntimeExceeded"])
        timer.start()
        syncing = threading.Thread(target=self._sync, args=[mirror, synced], daemon=True)
        syncing.start()
        with self._running.process as process:  # which closes its output
            for line in process.stdout:
                self._hear(line.rstrip("\n"), stream)
            exit_code = process.wait()
        timer.cancel()
        synced.set()
        syncing.join()
        if mirror and not server.lose_last_sync:
            mirror.sync()
        with self._lock:
            self._running = None
        seconds = time.monotonic() - began
        self.trained += seconds
        self.billed += seconds if self._why != "Interrupted" else 0.0
        return exit_code

    def _sync(self, mirror: bucket.Mirror | None, over: threading.Event) -> None:
        while mirror is not None and not over.wait(self.server.sync_seconds):
            mirror.sync()

    def _lay_out(self, root: Path, s3: Any) -> None:
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (root / name).mkdir(parents=True)
        channels = {}
        for one in self.request.get("InputDataConfig") or []:
            name, source = one["ChannelName"], one["DataSource"]["S3DataSource"]
            bucket.down(s3, source["S3Uri"], root / "input/data" / name)
            mode = one.get("InputMode") or self.request["AlgorithmSpecification"].get(
                "TrainingInputMode", "File"
            )
            channels[name] = {
                "TrainingInputMode": mode,
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": "None",
            }
        resources = self.request["ResourceConfig"]
        told = {
            "hyperparameters": self.request.get("HyperParameters") or {},
            "inputdataconfig": channels,
            "resourceconfig": {
                "current_host": "algo-1",
                "hosts": ["algo-1"],
                "network_interface_name": "eth0",
                "current_instance_type": resources.get("InstanceType"),
            },
        }
        if self.request.get("CheckpointConfig"):
            told["checkpointconfig"] = {"LocalPath": "/opt/ml/checkpoints"}
        for name, value in told.items():
            (root / f"input/config/{name}.json").write_text(json.dumps(value))

    def _hear(self, line: str, stream: logs.Stream) -> None:
        stream.put(line)
        for one in self.request["AlgorithmSpecification"].get("MetricDefinitions") or []:
            found = re.search(one["Regex"], line)
            if found:
                value = {"MetricName": one["Name"], "Value": float(found[1]), "Timestamp": now()}
                self.metrics[one["Name"]] = value
        hard = self.server.interruption(self, line)
        if hard is not None:
            self.interrupt(hard=hard)

    def _finish(self, root: Path, s3: Any, exit_code: int) -> None:
        self.times["TrainingEndTime"] = now()
        out = f"{self.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.name}/output"
        if self.status == "InProgress":
            self._to("InProgress", "Uploading", "Uploading generated training model")
        for folder, name in (("model", "model"), ("output/data", "output")):
            if any((root / folder).iterdir()):
                bucket.put_tar(s3, root / folder, f"{out}/{name}.tar.gz")
        time.sleep(self.server.pace)
        if self._why:
            self._to("Stopped", self._why, self._why)
        elif exit_code:
            told = root / "output/failure"
            text = told.read_text()[:1024] if told.exists() else ""
            self.failure = f"AlgorithmError: {text}, exit code: {exit_code}"
            self._to("Failed", "Failed", self.failure)
        else:
            self._to("Completed", "Completed", "Training job completed")

    # --- what is told of it ---------------------------------------------------------------------

    def describe(self) -> Json:
        with self._lock:
            out = self.request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
            found: Json = {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
                "SecondaryStatusTransitions": list(self.transitions),
                "CreationTime": self.created,
                "LastModifiedTime": self.changed,
                "FinalMetricDataList": list(self.metrics.values()),
                "ModelArtifacts": {"S3ModelArtifacts": f"{out}/{self.name}/output/model.tar.gz"},
                **{key: value for key, value in self.request.items() if key != "Tags"},
                **self.times,
            }
            if self.failure:
                found["FailureReason"] = self.failure
            if self.status in OVER and self.trained:
                found["TrainingTimeInSeconds"] = max(1, round(self.trained))
                found["BillableTimeInSeconds"] = max(1, round(self.billed))
            return found

    def summary(self) -> Json:
        return {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "CreationTime": self.created,
            "LastModifiedTime": self.changed,
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.secondary,
        }


def start(server: "Server", region: str, request: Json) -> TrainingJob:
    """Start a job, of whoever."""
    job = TrainingJob(server, region, request)
    server.store.training[region, job.name] = job
    server.store.tag(job.arn, request.get("Tags"))
    job.thread.start()
    return job


def check(server: "Server", region: str, request: Json) -> None:
    """Refuse what AWS refuses before anything is made."""
    spot = request.get("EnableManagedSpotTraining", False)
    condition = request["StoppingCondition"]
    longest = condition.get("MaxWaitTimeInSeconds")
    if spot and (longest is None or longest < condition.get("MaxRuntimeInSeconds", 86_400)):
        raise ApiError(
            "ValidationException",
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
            "MaxRuntimeInSeconds",
        )
    if longest is not None and not spot:
        raise ApiError(
            "ValidationException",
            "MaxWaitTimeInSeconds above 0 is not supported without EnableManagedSpotTraining",
        )
    hyperparameters = request.get("HyperParameters") or request.get("StaticHyperParameters") or {}
    if len(hyperparameters) > 100 or any(len(text) > 2500 for text in hyperparameters.values()):
        raise ApiError("ValidationException", "HyperParameters: too many or too long")
    s3 = server.client("s3", region)
    for channel in request.get("InputDataConfig") or []:
        bucket.check(s3, channel["DataSource"]["S3DataSource"]["S3Uri"], region)


def find(server: "Server", region: str, name: str) -> TrainingJob:
    job = server.store.training.get((region, name))
    if job is None:
        raise ApiError("ValidationException", "Requested resource not found.")
    return job  # type: ignore[no-any-return]


@action
def create_training_job(server: "Server", region: str, request: Json) -> Json:
    name = request["TrainingJobName"]
    check_name("trainingJobName", name, 63)
    check(server, region, request)
    with server.store.lock:
        if (region, name) in server.store.training:
            raise ApiError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this "
                f"name already exists ({arn(region, 'training-job', name)})",
            )
        return {"TrainingJobArn": start(server, region, request).arn}


@action
def describe_training_job(server: "Server", region: str, request: Json) -> Json:
    return find(server, region, request["TrainingJobName"]).describe()


@action
def stop_training_job(server: "Server", region: str, request: Json) -> Json:
    find(server, region, request["TrainingJobName"]).stop()
    return {}


@action
def list_training_jobs(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        jobs = [job for (place, _), job in server.store.training.items() if place == region]
    return page(request, [job.summary() for job in jobs], "TrainingJobSummaries")
