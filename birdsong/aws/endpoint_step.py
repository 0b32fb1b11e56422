"""Deploy with target sagemaker: from a registered version to an endpoint that passed the gate."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong import golden_gate
from birdsong.aws import calls
from birdsong.aws.endpoint import Changed, Endpoint, EndpointError, Wish
from birdsong.aws.endpoint_options import EndpointOptions
from birdsong.config import DeployConfig
from birdsong.errors import ConfigError, DataError


def wish_of(arn: str, config: DeployConfig, bucket: str, version: str) -> Wish:
    """The requests for an endpoint that serves a registered version.

    Args:
        arn: Of the model package.
        config: Of deploy.
        bucket: Where captured requests go.
        version: Told in answers.

    Raises:
        ConfigError: Settings do not go together.
    """
    options = EndpointOptions.parse(config.endpoint_options)
    if not config.endpoint_role:
        raise ConfigError(
            "endpoint_role is empty: give the ARN of the role that the container runs as "
            "(birdsong/aws/policies/job.json), --set endpoint_role=arn:aws:iam::..."
        )
    environment = {"BIRDSONG_VERSION": version, "BIRDSONG_RUNTIME": config.runtime}
    model: dict[str, Any] = {
        "ExecutionRoleArn": config.endpoint_role,
        "Containers": [{"ModelPackageName": arn, "Environment": environment}],
    }
    settings: dict[str, Any] = {}
    if config.instance == "serverless":
        unfit = [
            name
            for name, given in (
                ("subnets", options.subnets),
                ("alarms", options.alarms),
                ("capture_percent", options.capture_percent),
                ("kms_key", options.kms_key),
            )
            if given
        ]
        if unfit:
            raise ConfigError(
                f"endpoint_options: serverless endpoints take no {', '.join(unfit)}. Leave it out, "
                "or choose an instance."
            )
        settings["Variant"] = {
            "ServerlessConfig": {
                "MemorySizeInMB": options.memory_mb,
                "MaxConcurrency": options.concurrency,
            }
        }
        return Wish(model, settings, {})
    settings["Variant"] = {
        "InstanceType": config.instance,
        "InitialInstanceCount": options.instances,
        "ContainerStartupHealthCheckTimeoutInSeconds": options.startup_minutes * 60,
    }
    if options.subnets:
        model["VpcConfig"] = {
            "Subnets": list(options.subnets),
            "SecurityGroupIds": list(options.security_groups),
        }
    if options.kms_key:
        settings["KmsKeyId"] = options.kms_key
    if options.capture_percent:
        settings["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": options.capture_percent,
            "DestinationS3Uri": f"s3://{bucket}/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            **({"KmsKeyId": options.kms_key} if options.kms_key else {}),
        }
    return Wish(model, settings, _guard(options))


def _guard(options: EndpointOptions) -> dict[str, Any]:
    """Blue/green with a rollback by alarms, where alarms are given."""
    if not options.alarms:
        return {}
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "ALL_AT_ONCE",
                "WaitIntervalInSeconds": options.bake_minutes * 60,
            },
            "TerminationWaitInSeconds": 0,
            "MaximumExecutionTimeoutInSeconds": max(600, options.wait_minutes * 60),
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in options.alarms]},
    }


def deploy(folder: Path, version: Mapping[str, Any], config: DeployConfig) -> dict[str, Any]:
    """Serve a registered version on SageMaker, and check it by its golden recordings.

    Args:
        folder: The bundle.
        version: `version.json` of register.
        config: Of deploy.

    Returns:
        What `endpoint.json` says: state `checked`, or `passed over` with the reason.

    Raises:
        ConfigError: The version is not in SageMaker's registry, or settings do not fit.
        EndpointError: The endpoint failed, or SageMaker went back by itself.
        GateError: The golden recordings did not pass; the endpoint serves what it did before.
    """
    arn = str(version.get("arn") or "")
    if not arn:
        raise ConfigError(
            f"{version['name']} version {version['version']} is not in SageMaker's Model Registry "
            f"but in {version['registry']}. Run register with registry=sagemaker://BUCKET/PREFIX."
        )
    region = arn.split(":")[3]
    name = config.endpoint_name or str(version["name"])
    with calls.told(f"The endpoint {name} in {region}", region):
        return _deploy(folder, version, config, arn, region, name)


def _deploy(
    folder: Path,
    version: Mapping[str, Any],
    config: DeployConfig,
    arn: str,
    region: str,
    name: str,
) -> dict[str, Any]:
    started = time.monotonic()
    bucket = str(version.get("uri") or "").removeprefix("s3://").partition("/")[0]
    wish = wish_of(arn, config, bucket, str(version["version"]))
    sagemaker = calls.client("sagemaker", region)
    # A person may have approved it since it was registered.
    approval = sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"]
    if approval != "Approved":
        return {
            "state": "passed over",
            "reason": f"{version['name']} version {version['version']} is {approval}. Approve it "
            "(in the console, or `aws sagemaker update-model-package --model-approval-status "
            f"Approved --model-package-arn {arn}`), then run deploy again: `python pipeline.py "
            "rerun RUN --from deploy`.",
        }
    options = EndpointOptions.parse(config.endpoint_options)
    endpoint = Endpoint(name, region, options.wait_minutes * 60)
    changed = endpoint.apply(wish)
    ready = time.monotonic() - started
    try:
        checked = golden_gate.check(folder, endpoint.ask, config.tolerance, config.latency_ms)
    except (golden_gate.GateError, EndpointError) as error:
        raise golden_gate.GateError(f"{error}\n{_undo(endpoint, changed)}") from error
    endpoint.mark_checked(changed.config)
    endpoint.prune({changed.config, changed.previous})
    print(checked.table)
    return {
        "state": "checked",
        "reason": f"{checked.words} The endpoint {name} was {changed.action}.",
        "command": f"python pipeline.py endpoint show {name} --region {region}",
        "endpoint": name,
        "region": region,
        "action": changed.action,
        "config": changed.config,
        "previous": changed.previous,
        "url": f"https://runtime.sagemaker.{region}.amazonaws.com/endpoints/{name}/invocations",
        **checked.record(),
        "ready_seconds": round(ready, 2),
        "seconds": round(time.monotonic() - started, 2),
    }


def _undo(endpoint: Endpoint, changed: Changed) -> str:
    """Go back to what was served before, or serve nothing; in one sentence.

    What this step did not change, and what passed the gate when it was changed, stays: one slow
    hour shall take no endpoint away.
    """
    if changed.action == "unchanged" and endpoint.was_checked(changed.config):
        return (
            f"The endpoint {endpoint.name} was not changed by this step. It goes on with "
            f"{changed.config}, which passed when it was put in service. Look at its load and its "
            f"log, or go back: python pipeline.py endpoint rollback {endpoint.name}."
        )
    back = changed.previous if changed.previous != changed.config else ""
    if not back or endpoint.config(back) is None:
        endpoint.delete()
        return f"The endpoint {endpoint.name} had nothing to go back to, so it was deleted."
    try:
        endpoint.rollback(back)
    except DataError as error:
        return f"Going back to {back} failed too: {error}"
    endpoint.prune(endpoint.kept(back) - {changed.config})
    return f"The endpoint {endpoint.name} serves {back} again, as before."
