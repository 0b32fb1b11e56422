"""Tuning jobs: a search whose trials are training jobs of jobs.py."""

import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from sagemaker_server import jobs
from sagemaker_server.api import ApiError, Json, action, arn, check_name, now, page

if TYPE_CHECKING:
    from sagemaker_server.server import Server

_BETWEEN_SECONDS = 0.05


class TuningJob:
    """One search."""

    def __init__(self, server: "Server", region: str, request: Json) -> None:
        self.server, self.region, self.request = server, region, request
        self.name: str = request["HyperParameterTuningJobName"]
        self.arn = arn(region, "hyper-parameter-tuning-job", self.name)
        self.created, self.status, self.failure = now(), "InProgress", ""
        self.trials: list[tuple[jobs.TrainingJob, dict[str, str]]] = []
        self._lock = threading.RLock()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def config(self) -> Json:
        return dict(self.request["HyperParameterTuningJobConfig"])

    @property
    def objective(self) -> Json:
        return dict(self.config["HyperParameterTuningJobObjective"])

    def stop(self) -> None:
        with self._lock:
            if self.status != "InProgress":
                raise ApiError(
                    "ValidationException",
                    "The request was rejected because the hyperparameter tuning job is in status "
                    f"{self.status}.",
                )
            self.status = "Stopping"
            for job, _ in self.trials:
                if job.status == "InProgress":
                    job.stop()

    def _run(self) -> None:
        rng = random.Random(self.config.get("RandomSeed", 0))
        limits = self.config["ResourceLimits"]
        most, together = limits["MaxNumberOfTrainingJobs"], limits["MaxParallelTrainingJobs"]
        while True:
            with self._lock:
                live = [job for job, _ in self.trials if job.status not in jobs.OVER]
                if self.status == "InProgress" and len(self.trials) < most:
                    if len(live) < together:
                        self._start(rng)
                        continue
                elif not live:
                    break
            time.sleep(_BETWEEN_SECONDS)
        if self.status == "Stopping":
            self.status = "Stopped"
        elif not any(self._value(job) is not None for job, _ in self.trials):
            self.failure = (
                f"No objective metrics found after running {len(self.trials)} training jobs. "
                "Please ensure that the custom algorithm is emitting the objective metric as "
                "defined by the regular expression provided."
            )
            self.status = "Failed"
        else:
            self.status = "Completed"

    def _start(self, rng: random.Random) -> None:
        drawn = draw(rng, self.config["ParameterRanges"])
        name = f"{self.name}-{len(self.trials) + 1:03d}-{rng.getrandbits(32):08x}"
        definition = dict(self.request["TrainingJobDefinition"])
        static = definition.pop("StaticHyperParameters", None) or {}
        definition["TrainingJobName"] = name
        definition["HyperParameters"] = {
            **static,
            **drawn,
            "_tuning_objective_metric": self.objective["MetricName"],
        }
        kept = definition.get("CheckpointConfig")
        if kept:
            uri = f"{kept['S3Uri'].rstrip('/')}/{name}/"
            definition["CheckpointConfig"] = {**kept, "S3Uri": uri}
        definition["Tags"] = self.request.get("Tags") or []
        job = jobs.start(self.server, self.region, definition)
        self.trials.append((job, drawn))

    def _value(self, job: jobs.TrainingJob) -> float | None:
        found = job.metrics.get(self.objective["MetricName"])
        return float(found["Value"]) if found and job.status == "Completed" else None

    def summaries(self) -> list[Json]:
        with self._lock:
            return [self._summary(job, drawn) for job, drawn in self.trials]

    def _summary(self, job: jobs.TrainingJob, drawn: dict[str, str]) -> Json:
        told = job.describe()
        found: Json = {
            "TrainingJobName": job.name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.created,
            "TrainingJobStatus": job.status,
            "TunedHyperParameters": drawn,
            **{
                key: told[key]
                for key in ("TrainingStartTime", "TrainingEndTime", "FailureReason")
                if key in told
            },
        }
        value = self._value(job)
        found["ObjectiveStatus"] = (
            "Succeeded"
            if value is not None
            else ("Failed" if job.status in jobs.OVER else "Pending")
        )
        if value is not None:
            found["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "Type": self.objective["Type"],
                "MetricName": self.objective["MetricName"],
                "Value": value,
            }
        return found

    def describe(self) -> Json:
        rows = self.summaries()
        metric = "FinalHyperParameterTuningJobObjectiveMetric"
        done = [row for row in rows if metric in row]

        def count(*states: str) -> int:
            return sum(row["TrainingJobStatus"] in states for row in rows)

        found: Json = {
            **{key: value for key, value in self.request.items() if key != "Tags"},
            "HyperParameterTuningJobArn": self.arn,
            "HyperParameterTuningJobStatus": self.status,
            "CreationTime": self.created,
            "TrainingJobStatusCounters": {
                "Completed": count("Completed"),
                "InProgress": count("InProgress"),
                "RetryableError": 0,
                "NonRetryableError": count("Failed"),
                "Stopped": count("Stopped", "Stopping"),
            },
            "ObjectiveStatusCounters": {
                "Succeeded": len(done),
                "Pending": sum(row["ObjectiveStatus"] == "Pending" for row in rows),
                "Failed": sum(row["ObjectiveStatus"] == "Failed" for row in rows),
            },
        }
        if self.failure:
            found["FailureReason"] = self.failure
        if done:
            sign = 1 if self.objective["Type"] == "Maximize" else -1
            found["BestTrainingJob"] = max(done, key=lambda row: sign * row[metric]["Value"])
        return found


def draw(rng: random.Random, ranges: Json) -> dict[str, str]:
    """One point of a space, as text."""
    found: dict[str, str] = {}
    for one in ranges.get("ContinuousParameterRanges") or []:
        low, high = float(one["MinValue"]), float(one["MaxValue"])
        log = one.get("ScalingType") == "Logarithmic"
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if log else None
        found[one["Name"]] = repr(value if value is not None else rng.uniform(low, high))
    for one in ranges.get("IntegerParameterRanges") or []:
        found[one["Name"]] = str(rng.randint(int(one["MinValue"]), int(one["MaxValue"])))
    for one in ranges.get("CategoricalParameterRanges") or []:
        found[one["Name"]] = rng.choice(one["Values"])
    return found


def _find(server: "Server", region: str, name: str) -> TuningJob:
    job: Any = server.store.tuning.get((region, name))
    if job is None:
        raise ApiError(
            "ResourceNotFound", f"Amazon SageMaker can't find a tuning job with name {name}."
        )
    return job  # type: ignore[no-any-return]


@action
def create_hyper_parameter_tuning_job(server: "Server", region: str, request: Json) -> Json:
    name = request["HyperParameterTuningJobName"]
    check_name("hyperParameterTuningJobName", name, 32)
    definition = request["TrainingJobDefinition"]
    jobs.check(server, region, definition)
    known = [one["Name"] for one in definition["AlgorithmSpecification"]["MetricDefinitions"]]
    wanted = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    if wanted["MetricName"] not in known:
        raise ApiError("ValidationException", "The objective metric is not among the definitions.")
    parents = (request.get("WarmStartConfig") or {}).get("ParentHyperParameterTuningJobs") or []
    for parent in parents:
        before = _find(server, region, parent["HyperParameterTuningJobName"])
        if before.status not in jobs.OVER:
            raise ApiError("ValidationException", f"Parent tuning job {before.name} is not over.")
    with server.store.lock:
        if (region, name) in server.store.tuning:
            raise ApiError(
                "ResourceInUse",
                "Hyperparameter tuning job names must be unique within an AWS account and region, "
                f"and a job with this name already exists ({name})",
            )
        job = TuningJob(server, region, request)
        server.store.tuning[region, name] = job
        server.store.tag(job.arn, request.get("Tags"))
        job.thread.start()
    return {"HyperParameterTuningJobArn": job.arn}


@action
def describe_hyper_parameter_tuning_job(server: "Server", region: str, request: Json) -> Json:
    return _find(server, region, request["HyperParameterTuningJobName"]).describe()


@action
def stop_hyper_parameter_tuning_job(server: "Server", region: str, request: Json) -> Json:
    _find(server, region, request["HyperParameterTuningJobName"]).stop()
    return {}


@action
def list_training_jobs_for_hyper_parameter_tuning_job(
    server: "Server", region: str, request: Json
) -> Json:
    job = _find(server, region, request["HyperParameterTuningJobName"])
    return page(request, job.summaries(), "TrainingJobSummaries")


@action
def list_hyper_parameter_tuning_jobs(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        found = [job for (place, _), job in server.store.tuning.items() if place == region]
    rows = []
    for job in found:
        told = job.describe()
        rows.append(
            {
                "HyperParameterTuningJobName": job.name,
                "HyperParameterTuningJobArn": job.arn,
                "HyperParameterTuningJobStatus": job.status,
                "Strategy": job.config["Strategy"],
                "CreationTime": job.created,
                "TrainingJobStatusCounters": told["TrainingJobStatusCounters"],
                "ObjectiveStatusCounters": told["ObjectiveStatusCounters"],
                "ResourceLimits": job.config["ResourceLimits"],
            }
        )
    return page(request, rows, "HyperParameterTuningJobSummaries")
