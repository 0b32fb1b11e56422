"""Models, endpoint configurations and endpoints, which really run `serve`."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsong.aws.unpacking import unpack
from sagemaker_server import packages
from sagemaker_server.api import ApiError, Json, action, arn, check_name, now, page
from sagemaker_server.bucket import split
from sagemaker_server.serving import Serving, wait

if TYPE_CHECKING:
    from sagemaker_server.server import Server

INVOCATION = re.compile(r"^/endpoints/([^/]+)/invocations$")


class Hosting:
    """Models, configurations and endpoints, by region and name."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Json] = {}
        self.configs: dict[tuple[str, str], Json] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}


def _absent(kind: str, name: str) -> ApiError:
    return ApiError("ValidationException", f'Could not find {kind} "{name}".')


def _taken(kind: str, name: str) -> ApiError:
    return ApiError("ValidationException", f'Cannot create already existing {kind} "{name}".')


class Endpoint:
    """One endpoint; its changes happen in a thread of their own."""

    def __init__(self, server: "Server", region: str, request: Json) -> None:
        self.server, self.region, self.name = server, region, request["EndpointName"]
        self.config = request["EndpointConfigName"]
        self.status, self.failure, self.created = "Creating", "", now()
        self.changed = self.created
        self.serving: Serving | None = None
        self.deployment: Json = {}
        self._lock = threading.Lock()
        self._begin(self.config, None)

    def _begin(self, config: str, before: str | None) -> None:
        self.thread = threading.Thread(target=self._change, args=(config, before), daemon=True)
        self.thread.start()

    def update(self, config: str, deployment: Json) -> None:
        with self._lock:
            if self.status not in ("InService", "OutOfService"):
                raise ApiError(
                    "ValidationException",
                    f"Cannot update endpoint {self.name} while it is in status {self.status}.",
                )
            self.status, self.deployment, self.failure = "Updating", deployment, ""
        self._begin(config, self.config)

    def _change(self, config: str, before: str | None) -> None:
        """Start a new fleet and shift to it, or keep what there was."""
        try:
            time.sleep(self.server.pace)
            fresh = start(self.server, self.region, config)
            alarms = (self.deployment.get("AutoRollbackConfiguration") or {}).get("Alarms") or []
            wrong = [one["AlarmName"] for one in alarms if one["AlarmName"] in self.server.alarms]
            if wrong:
                fresh.stop()
                raise RuntimeError(f"An alarm went off during the deployment: {', '.join(wrong)}")
        except Exception as error:
            self.failure = str(error)[:1024]
            if before is None:
                self._to("Failed")
                return
            self._to("RollingBack")
            time.sleep(self.server.pace)
            self._to("InService")
            return
        old, self.serving, self.config = self.serving, fresh, config
        self._to("InService")
        if old is not None:
            old.stop()

    def _to(self, status: str) -> None:
        self.status, self.changed = status, now()

    def stop(self) -> None:
        self.thread.join(30)
        if self.serving is not None:
            self.serving.stop()


def start(server: "Server", region: str, config: str) -> Serving:
    """Fetch the model and start what serves it."""
    variant = server.hosting.configs[region, config]["ProductionVariants"][0]
    model = server.hosting.models[region, variant["ModelName"]]
    if variant["ModelName"] in server.broken_models:
        raise RuntimeError(
            "The primary container for production variant AllTraffic did not pass the ping health "
            "check. Please check CloudWatch logs for this endpoint."
        )
    container = (model.get("Containers") or [model.get("PrimaryContainer")])[0]
    if "ModelPackageName" in container:
        package = packages.find(server, container["ModelPackageName"])
        given = package["InferenceSpecification"]["Containers"][0]
        container = {**given, **container}
    folder = Path(server.scratch) / f"model-{config}-{time.time_ns()}"
    folder.mkdir()
    bucket, key = split(container["ModelDataUrl"])
    archive = folder.with_suffix(".tar.gz")
    server.client("s3", region).download_file(bucket, key, str(archive))
    unpack(archive, folder)
    archive.unlink()
    environment = dict(container.get("Environment") or {})
    found = server.serves.start(container["Image"], folder, environment)
    wait(found)
    return found


@action
def create_model(server: "Server", region: str, request: Json) -> Json:
    name = request["ModelName"]
    check_name("modelName", name, 63)
    with server.store.lock:
        if (region, name) in server.hosting.models:
            raise _taken("model", name)
        for container in request.get("Containers") or []:
            if "ModelPackageName" in container:
                package = packages.find(server, container["ModelPackageName"])
                if package.get("ModelApprovalStatus") != "Approved":
                    raise ApiError(
                        "ValidationException",
                        f"The model package {container['ModelPackageName']} is not approved.",
                    )
        made = arn(region, "model", name)
        server.hosting.models[region, name] = {
            **request,
            "ModelArn": made,
            "CreationTime": now(),
        }
        server.store.tag(made, request.get("Tags"))
    return {"ModelArn": made}


@action
def describe_model(server: "Server", region: str, request: Json) -> Json:
    found = server.hosting.models.get((region, request["ModelName"]))
    if found is None:
        raise _absent("model", request["ModelName"])
    return {name: value for name, value in found.items() if name != "Tags"}


@action
def delete_model(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        if server.hosting.models.pop((region, request["ModelName"]), None) is None:
            raise _absent("model", request["ModelName"])
    return {}


@action
def list_models(server: "Server", region: str, request: Json) -> Json:
    rows = [
        {"ModelName": name, "ModelArn": one["ModelArn"], "CreationTime": one["CreationTime"]}
        for (place, name), one in list(server.hosting.models.items())
        if place == region
    ]
    return page(request, rows, "Models")


@action
def create_endpoint_config(server: "Server", region: str, request: Json) -> Json:
    name = request["EndpointConfigName"]
    check_name("endpointConfigName", name, 63)
    with server.store.lock:
        if (region, name) in server.hosting.configs:
            raise _taken("endpoint configuration", name)
        for variant in request["ProductionVariants"]:
            if (region, variant["ModelName"]) not in server.hosting.models:
                raise _absent("model", variant["ModelName"])
            if variant.get("InstanceType") and variant.get("ServerlessConfig"):
                raise ApiError("ValidationException", "Either an instance type or serverless.")
        made = arn(region, "endpoint-config", name)
        server.hosting.configs[region, name] = {
            **request,
            "EndpointConfigArn": made,
            "CreationTime": now(),
        }
        server.store.tag(made, request.get("Tags"))
    return {"EndpointConfigArn": made}


@action
def describe_endpoint_config(server: "Server", region: str, request: Json) -> Json:
    found = server.hosting.configs.get((region, request["EndpointConfigName"]))
    if found is None:
        raise _absent("endpoint configuration", request["EndpointConfigName"])
    return {name: value for name, value in found.items() if name != "Tags"}


@action
def list_endpoint_configs(server: "Server", region: str, request: Json) -> Json:
    rows = [
        {
            "EndpointConfigName": name,
            "EndpointConfigArn": one["EndpointConfigArn"],
            "CreationTime": one["CreationTime"],
        }
        for (place, name), one in list(server.hosting.configs.items())
        if place == region
    ]
    return page(request, rows, "EndpointConfigs")


@action
def delete_endpoint_config(server: "Server", region: str, request: Json) -> Json:
    name = request["EndpointConfigName"]
    with server.store.lock:
        if (region, name) not in server.hosting.configs:
            raise _absent("endpoint configuration", name)
        for (place, _), one in server.hosting.endpoints.items():
            if place == region and one.config == name:
                # AWS allows it and says that one must not.
                raise AssertionError(f"{name} is in use by the endpoint {one.name}")
        del server.hosting.configs[region, name]
    return {}


@action
def create_endpoint(server: "Server", region: str, request: Json) -> Json:
    name, config = request["EndpointName"], request["EndpointConfigName"]
    check_name("endpointName", name, 63)
    with server.store.lock:
        if (region, name) in server.hosting.endpoints:
            raise _taken("endpoint", name)
        if (region, config) not in server.hosting.configs:
            raise _absent("endpoint configuration", config)
        made = arn(region, "endpoint", name)
        server.hosting.endpoints[region, name] = Endpoint(server, region, request)
        server.store.tag(made, request.get("Tags"))
    return {"EndpointArn": made}


def _endpoint(server: "Server", region: str, name: str) -> Endpoint:
    found = server.hosting.endpoints.get((region, name))
    if found is None:
        raise _absent("endpoint", name)
    return found


@action
def describe_endpoint(server: "Server", region: str, request: Json) -> Json:
    one = _endpoint(server, region, request["EndpointName"])
    found: dict[str, Any] = {
        "EndpointName": one.name,
        "EndpointArn": arn(region, "endpoint", one.name),
        "EndpointConfigName": one.config,
        "EndpointStatus": one.status,
        "CreationTime": one.created,
        "LastModifiedTime": one.changed,
    }
    if one.failure:
        found["FailureReason"] = one.failure
    return found


@action
def update_endpoint(server: "Server", region: str, request: Json) -> Json:
    one = _endpoint(server, region, request["EndpointName"])
    if (region, request["EndpointConfigName"]) not in server.hosting.configs:
        raise _absent("endpoint configuration", request["EndpointConfigName"])
    one.update(request["EndpointConfigName"], request.get("DeploymentConfig") or {})
    return {"EndpointArn": arn(region, "endpoint", one.name)}


@action
def delete_endpoint(server: "Server", region: str, request: Json) -> Json:
    one = _endpoint(server, region, request["EndpointName"])
    if one.status in ("Creating", "Updating", "RollingBack", "Deleting"):
        raise ApiError(
            "ValidationException", f"Cannot delete an endpoint that is in status {one.status}."
        )
    one.status = "Deleting"

    def leave() -> None:
        time.sleep(server.pace)
        one.stop()
        server.hosting.endpoints.pop((region, one.name), None)

    threading.Thread(target=leave, daemon=True).start()
    return {}


def invoke(
    server: "Server", region: str, name: str, environ: dict[str, Any], start_response: Any
) -> Iterable[bytes]:
    """Hand an invocation to the container; what it answers other than 200 is a ModelError."""
    found = server.hosting.endpoints.get((region, name))
    if found is None or found.serving is None:
        text = json.dumps({"message": f"Endpoint {name} of account not found."}).encode()
        start_response("400 Error", _headers("ValidationError"))
        return [text]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {"Content-Type": environ.get("CONTENT_TYPE", "application/octet-stream")}
    wanted = environ.get("HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES")
    if wanted:
        headers["X-Amzn-SageMaker-Custom-Attributes"] = wanted
    # A path only: SageMaker passes no query on.
    request = urllib.request.Request(  # noqa: S310
        f"{found.serving.address}/invocations", body, headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text, kind = answer.read(), answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        with error:
            original = error.read().decode(errors="replace")
            told = {
                "OriginalStatusCode": error.code,
                "OriginalMessage": original,
                "Message": f"Received error ({error.code}) from primary: {original[:500]}",
            }
        start_response("424 Error", _headers("ModelError"))
        return [json.dumps(told).encode()]
    start_response("200 OK", [("Content-Type", kind)])
    return [text]


def _headers(code: str) -> list[tuple[str, str]]:
    return [("Content-Type", "application/json"), ("x-amzn-ErrorType", code)]
