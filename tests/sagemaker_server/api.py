"""How an action of SageMaker is answered: JSON in, JSON out, errors in AWS' form."""

import json
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagemaker_server.server import Server

ACCOUNT = "123456789012"
NAME = re.compile(r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")

Json = dict[str, Any]
Action = Callable[["Server", str, Json], Json]
"""Server, region and request to answer. `PassOn` hands the request to moto."""

ACTIONS: dict[str, Action] = {}
"""Actions that are answered here, by their name in the API; moto answers the others."""


class ApiError(Exception):
    """An error as AWS answers it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status

    def body(self) -> bytes:
        return json.dumps({"__type": self.code, "message": self.message}).encode()


class PassOn(Exception):  # no error
    """The request is moto's."""


def action(function: Action) -> Action:
    """Register a function for the action that it is named after: `create_training_job`."""
    ACTIONS["".join(part.capitalize() for part in function.__name__.split("_"))] = function
    return function


def check_name(kind: str, name: str, longest: int) -> None:
    if not NAME.match(name) or len(name) > longest:
        raise ApiError(
            "ValidationException",
            f"1 validation error detected: Value '{name}' at '{kind}' failed to satisfy "
            f"constraint: Member must have length less than or equal to {longest} and satisfy "
            f"regular expression pattern: {NAME.pattern}",
        )


def now() -> float:
    """A time as AWS' JSON carries it: seconds since 1970."""
    return round(time.time(), 3)


def arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{kind}/{name}"


class Store:
    """What there is, by region and name; one lock for all of it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.training: dict[tuple[str, str], Any] = {}
        self.tuning: dict[tuple[str, str], Any] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def tag(self, resource: str, tags: list[Json] | None) -> None:
        with self.lock:
            self.tags.setdefault(resource, {}).update({t["Key"]: t["Value"] for t in tags or []})


def page(request: Json, rows: list[Json], answer: str) -> Json:
    """One page of a list, newest first unless asked otherwise."""
    if request.get("NameContains"):
        # The name's key is the first of each row, as in SageMaker's summaries.
        rows = [row for row in rows if request["NameContains"] in next(iter(row.values()))]
    if request.get("StatusEquals"):
        wanted = request["StatusEquals"]
        rows = [row for row in rows if wanted in row.values()]
    rows = sorted(
        rows,
        key=lambda row: row["CreationTime"],
        reverse=request.get("SortOrder", "Descending") == "Descending",
    )
    start, size = int(request.get("NextToken") or 0), int(request.get("MaxResults") or 10)
    found: Json = {answer: rows[start : start + size]}
    if start + size < len(rows):
        found["NextToken"] = str(start + size)
    return found


@action
def list_tags(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        if request["ResourceArn"] not in server.store.tags:
            raise PassOn
        tags = server.store.tags[request["ResourceArn"]]
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


@action
def add_tags(server: "Server", region: str, request: Json) -> Json:
    with server.store.lock:
        if request["ResourceArn"] not in server.store.tags:
            raise PassOn
    server.store.tag(request["ResourceArn"], request["Tags"])
    return {"Tags": request["Tags"]}
