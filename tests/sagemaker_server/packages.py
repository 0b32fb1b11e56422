"""The Model Registry: groups, and packages that are versions in them."""

from typing import TYPE_CHECKING, Any

from sagemaker_server import package_card
from sagemaker_server.api import ApiError, Json, action, arn, check_name, now, page

if TYPE_CHECKING:
    from sagemaker_server.server import Server


class Registry:
    """Groups and packages by region and name; packages by their ARN."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], Json] = {}
        self.packages: dict[str, Json] = {}
        self.tokens: dict[tuple[str, str], tuple[str, Json]] = {}


def _absent(what: str) -> ApiError:
    return ApiError("ValidationException", f"{what} does not exist.")


@action
def create_model_package_group(server: "Server", region: str, request: Json) -> Json:
    name = request["ModelPackageGroupName"]
    check_name("modelPackageGroupName", name, 63)
    with server.store.lock:
        if (region, name) in server.registry.groups:
            raise ApiError(
                "ValidationException",
                f"Model Package Group already exists: {arn(region, 'model-package-group', name)}",
            )
        made = arn(region, "model-package-group", name)
        server.registry.groups[region, name] = {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": made,
            "CreationTime": now(),
            "ModelPackageGroupStatus": "Completed",
        }
        server.store.tag(made, request.get("Tags"))
    return {"ModelPackageGroupArn": made}


@action
def describe_model_package_group(server: "Server", region: str, request: Json) -> Json:
    found = server.registry.groups.get((region, request["ModelPackageGroupName"]))
    if found is None:
        raise _absent(f"ModelPackageGroup {request['ModelPackageGroupName']}")
    return found


@action
def create_model_package(server: "Server", region: str, request: Json) -> Json:
    group = request["ModelPackageGroupName"]
    _check_metadata(request.get("CustomerMetadataProperties") or {})
    if "ModelCard" in request and (wrong := package_card.problem(request["ModelCard"])):
        raise ApiError("ValidationException", f"Invalid model card: {wrong}")
    with server.store.lock:
        if (region, group) not in server.registry.groups:
            raise _absent(f"ModelPackageGroup {group}")
        if request.get("Tags"):
            raise ApiError("ValidationException", "Tags are not allowed on versioned packages.")
        token = request.get("ClientToken")
        if token and (region, token) in server.registry.tokens:
            made, first = server.registry.tokens[region, token]
            if request != first:
                raise ApiError("ConflictException", "The token came with another request before.")
            return {"ModelPackageArn": made}
        number = 1 + max(
            (
                one["ModelPackageVersion"]
                for one in server.registry.packages.values()
                if (one["region"], one["ModelPackageGroupName"]) == (region, group)
            ),
            default=0,
        )
        made = arn(region, "model-package", f"{group}/{number}")
        server.registry.packages[made] = {
            **{name: value for name, value in request.items() if name != "ClientToken"},
            "ModelPackageArn": made,
            "ModelPackageVersion": number,
            "ModelPackageStatus": "Completed",
            "CreationTime": now(),
            "region": region,
        }
        if token:
            server.registry.tokens[region, token] = made, request
    return {"ModelPackageArn": made}


def _check_metadata(properties: Json) -> None:
    allowed = set("_.:/=+-@ ")
    if len(properties) > 50 or any(
        not 1 <= len(value) <= 256 or not all(c.isalnum() or c in allowed for c in value)
        for value in properties.values()
    ):
        raise ApiError("ValidationException", "CustomerMetadataProperties failed a constraint.")


def find(server: "Server", name: str) -> Json:
    found = server.registry.packages.get(name)
    if found is None:
        raise _absent(f"ModelPackage {name}")
    return found


@action
def describe_model_package(server: "Server", region: str, request: Json) -> Json:
    return {
        name: value
        for name, value in find(server, request["ModelPackageName"]).items()
        if name != "region"
    }


@action
def update_model_package(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        found = find(server, request["ModelPackageArn"])
        for name in ("ModelApprovalStatus", "ApprovalDescription"):
            if name in request:
                found[name] = request[name]
    return {"ModelPackageArn": request["ModelPackageArn"]}


@action
def list_model_packages(server: "Server", region: str, request: Json) -> Json:
    group = request["ModelPackageGroupName"]
    if (region, group) not in server.registry.groups:
        raise _absent(f"ModelPackageGroup {group}")
    shown = (
        *("ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn"),
        *("ModelPackageDescription", "CreationTime", "ModelPackageStatus", "ModelApprovalStatus"),
    )
    with server.store.lock:
        rows: list[dict[str, Any]] = [
            {name: one[name] for name in shown if name in one}
            for one in server.registry.packages.values()
            if (one["region"], one["ModelPackageGroupName"]) == (region, group)
        ]
    return page(request, rows, "ModelPackageSummaryList")
