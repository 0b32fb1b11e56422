"""An endpoint on SageMaker: made or changed to a content, settled, rolled back, shown, deleted.

Names of models and configurations end in a hash of what they hold, so that the same wish finds what
an earlier one made, whether its answer came or not. A configuration's tag says which one was in
service before it; the last two are kept.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from birdsong.aws import calls, refusals
from birdsong.errors import ConfigError, DataError, UnreachableError

CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
FAILED = ("Failed", "UpdateRollbackFailed", "OutOfService")
"""States that only deleting the endpoint leads out of."""

VARIANT = "AllTraffic"
PREVIOUS, PROJECT = "birdsong:previous", "birdsong:project"
CHECKED = "birdsong:checked"
"""Tag of a configuration: yes once it passed the golden gate since it is in service."""

POLL_SECONDS = 10.0


class EndpointError(DataError):
    """An endpoint did not become what was asked for."""


@dataclass(frozen=True)
class Wish:
    """What an endpoint shall serve.

    Attributes:
        model: Request of CreateModel without the name.
        config: Request of CreateEndpointConfig without names of itself and of the model.
        deployment: DeploymentConfig of an update; empty for SageMaker's default.
    """

    model: Mapping[str, Any]
    config: Mapping[str, Any]
    deployment: Mapping[str, Any]


@dataclass(frozen=True)
class Changed:
    """What `Endpoint.apply` did.

    Attributes:
        action: created, updated, recreated or unchanged.
        config: In service now.
        previous: In service before; empty where there was none.
    """

    action: str
    config: str
    previous: str


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of what JSON holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Endpoint:
    """One endpoint by its name.

    Args:
        name: At most 50 characters, so that names made from it fit.
        region: Empty: as the SDK finds it.
        wait_seconds: Longest wait for a change.
        tell: Where lines for the user go.
    """

    def __init__(
        self,
        name: str,
        region: str = "",
        wait_seconds: float = 2400,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.name, self._wait, self._tell = name, wait_seconds, tell
        self._client = calls.client("sagemaker", region)
        self._region = region
        self.region = calls.region_of(self._client)

    # --- looking --------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any] | None:
        """What SageMaker says of it; None where there is none."""
        return self._described("describe_endpoint", EndpointName=self.name)

    def config(self, name: str) -> dict[str, Any] | None:
        """A configuration; None where there is none."""
        return self._described("describe_endpoint_config", EndpointConfigName=name)

    def _described(self, call: str, **names: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = getattr(self._client, call)(**names)
            return found
        except Exception as error:
            if refusals.is_absent(error):
                return None
            raise

    def model_of(self, config: Mapping[str, Any]) -> str:
        """Name of the model of a configuration."""
        return str(config["ProductionVariants"][0]["ModelName"])

    def package_of(self, config: Mapping[str, Any]) -> str:
        """ARN of the registered version that a configuration serves; empty where unknown."""
        model = self._described("describe_model", ModelName=self.model_of(config)) or {}
        containers = model.get("Containers") or [model.get("PrimaryContainer") or {}]
        return str(containers[0].get("ModelPackageName") or "")

    def previous_of(self, config: Mapping[str, Any]) -> str:
        """The configuration that was in service before this one; empty where there is none."""
        return self._tag_of(config, PREVIOUS)

    def was_checked(self, name: str) -> bool:
        """Whether a configuration passed the golden gate since it is in service."""
        found = self.config(name)
        return found is not None and self._tag_of(found, CHECKED) == "yes"

    def _tag_of(self, config: Mapping[str, Any], key: str) -> str:
        tags = self._client.list_tags(ResourceArn=config["EndpointConfigArn"])["Tags"]
        return next((str(tag["Value"]) for tag in tags if tag["Key"] == key), "")

    def settled(self) -> dict[str, Any] | None:
        """Wait until it does not change any more.

        Raises:
            UnreachableError: It still changes after the longest wait.
        """
        give_up, last = time.monotonic() + self._wait, ""
        while True:
            found = self.describe()
            state = str(found["EndpointStatus"]) if found else "absent"
            if state != last:
                self._tell(f"The endpoint {self.name} is {state}.")
                last = state
            if found is None or state not in CHANGING:
                return found
            if time.monotonic() > give_up:
                raise UnreachableError(
                    f"The endpoint {self.name} is still {state} after {self._wait / 60:g} min. "
                    "Look at it in the console; the next deploy goes on from what it then is."
                )
            time.sleep(POLL_SECONDS)

    # --- changing -------------------------------------------------------------------------------

    def apply(self, wish: Wish) -> Changed:
        """Let the endpoint serve a wish; nothing is done where it does so already.

        Raises:
            EndpointError: It failed, or SageMaker went back to what it served before.
        """
        now = self.settled()
        config = self._ensure(wish)
        if now is not None and now["EndpointStatus"] in FAILED:
            self._tell(f"The endpoint {self.name} is {now['EndpointStatus']}: made anew.")
            self._delete_endpoint()
            now, action = None, "recreated"
        else:
            action = "created" if now is None else "updated"
        previous = str(now["EndpointConfigName"]) if now else ""
        if previous == config:
            before = self.config(config)
            return Changed("unchanged", config, self.previous_of(before) if before else "")
        if now is None:
            self._create(config)
        else:
            self._tag(config, {PREVIOUS: previous, CHECKED: "no"})
            self._update(config, wish.deployment)
        try:
            self._expect(config)
        except EndpointError:
            if previous:  # SageMaker went back by itself: nothing of the new one shall stay
                self.prune(self.kept(previous))
            raise
        return Changed(action, config, previous)

    def kept(self, config: str) -> set[str]:
        """The configuration in service and the one before it."""
        found = self.config(config)
        return {config, self.previous_of(found)} if found else {config}

    def _ensure(self, wish: Wish) -> str:
        """Make the model and the configuration of a wish, where they are not there yet."""
        model = f"{self.name}-{digest(wish.model)}"
        config = f"{self.name}-{digest([wish.model, wish.config])}"
        tags = [{"Key": PROJECT, "Value": "birdsong"}]
        if self._described("describe_model", ModelName=model) is None:
            self._make("create_model", ModelName=model, Tags=tags, **wish.model)
        if self.config(config) is None:
            variant = {"VariantName": VARIANT, "ModelName": model}
            given = dict(wish.config)
            given["ProductionVariants"] = [{**variant, **given.pop("Variant")}]
            self._make("create_endpoint_config", EndpointConfigName=config, Tags=tags, **given)
        return config

    def _make(self, call: str, **request: Any) -> None:
        try:
            getattr(self._client, call)(**request)
        except Exception as error:
            # Made by another process, or by our own try whose answer was lost: the same content,
            # since the name holds its hash.
            if not calls.is_taken(error):
                raise

    def _create(self, config: str) -> None:
        self._make(
            "create_endpoint",
            EndpointName=self.name,
            EndpointConfigName=config,
            Tags=[{"Key": PROJECT, "Value": "birdsong"}],
        )

    def mark_checked(self, config: str) -> None:
        """Note that a configuration passed the golden gate."""
        self._tag(config, {CHECKED: "yes"})

    def _tag(self, config: str, tags: Mapping[str, str]) -> None:
        found = self.config(config)
        if found is not None:
            texts = [{"Key": key, "Value": value} for key, value in tags.items()]
            self._client.add_tags(ResourceArn=found["EndpointConfigArn"], Tags=texts)

    def _update(self, config: str, deployment: Mapping[str, Any]) -> None:
        given = {"DeploymentConfig": dict(deployment)} if deployment else {}
        try:
            self._client.update_endpoint(EndpointName=self.name, EndpointConfigName=config, **given)
        except Exception as error:
            # Our own first try was carried out and its answer lost: it is updating already.
            if refusals.code_of(error) != "ValidationException":
                raise
            now = self.describe()
            if now is None:
                raise
            if now["EndpointConfigName"] != config and now["EndpointStatus"] not in CHANGING:
                raise

    def _expect(self, config: str) -> None:
        """InService is also what a refused update looks like, so the configuration is compared."""
        now = self.settled()
        if now is None:
            raise EndpointError(f"The endpoint {self.name} was deleted by somebody meanwhile.")
        reason = now.get("FailureReason") or "SageMaker gives no reason"
        logs = f"Its log is in CloudWatch, group /aws/sagemaker/Endpoints/{self.name}."
        if now["EndpointStatus"] != "InService":
            raise EndpointError(
                f"The endpoint {self.name} is {now['EndpointStatus']}: {reason}. {logs} The next "
                "deploy deletes it and makes it anew."
            )
        if now["EndpointConfigName"] != config:
            raise EndpointError(
                f"The endpoint {self.name} went back to {now['EndpointConfigName']} instead of "
                f"{config}: {reason}. {logs}"
            )

    def rollback(self, to: str = "") -> Changed:
        """Go back to the configuration that was in service before.

        Args:
            to: A configuration; its own tag is left as it is, since the present one goes. Empty
                for the one that the present one's tag names; the two can then be exchanged again.

        Raises:
            ConfigError: There is nothing to go back to.
            EndpointError: The endpoint did not take it.
        """
        now = self.settled()
        if now is None:
            raise ConfigError(f"There is no endpoint {self.name} in {self.region}.")
        present = str(now["EndpointConfigName"])
        found = self.config(present)
        target = to or (self.previous_of(found) if found else "")
        if not target or self.config(target) is None:
            raise ConfigError(
                f"The endpoint {self.name} has no earlier configuration to go back to. Deploy an "
                "earlier version instead."
            )
        if target != present:
            if not to:
                self._tag(target, {PREVIOUS: present})
            self._update(target, {})
            self._expect(target)
        return Changed("rolled back", target, present)

    # --- removing -------------------------------------------------------------------------------

    def prune(self, keep: set[str]) -> list[str]:
        """Delete configurations of this endpoint but those to keep, and all models of no such one.

        Models are looked for by name, not by the configurations that go: a step that was killed
        may have left one alone.
        """
        configs = self._ours("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName")
        models = {self.model_of(one) for name in configs & keep if (one := self.config(name))}
        gone = sorted(configs - keep)
        for name in gone:
            self._remove("delete_endpoint_config", EndpointConfigName=name)
        for name in sorted(self._ours("list_models", "Models", "ModelName") - models):
            self._remove("delete_model", ModelName=name)
        return gone

    def _ours(self, call: str, answer: str, key: str) -> set[str]:
        """Names in a list of SageMaker that were made for this endpoint."""
        form = re.compile(rf"{re.escape(self.name)}-[0-9a-f]{{12}}")
        pages = self._client.get_paginator(call).paginate(NameContains=f"{self.name}-")
        found = (str(entry[key]) for page in pages for entry in page[answer])
        return {name for name in found if form.fullmatch(name)}

    def delete(self) -> list[str]:
        """Delete the endpoint with all of its configurations and models."""
        if self.settled() is not None:
            self._delete_endpoint()
        return self.prune(set())

    def _delete_endpoint(self) -> None:
        self._remove("delete_endpoint", EndpointName=self.name)
        self.settled()

    def _remove(self, call: str, **names: str) -> None:
        try:
            getattr(self._client, call)(**names)
        except Exception as error:
            if refusals.is_absent(error):  # also our own first try, whose answer was lost
                return
            if call == "delete_endpoint":
                now = self.describe()
                if now is None or now["EndpointStatus"] == "Deleting":
                    return
            raise

    # --- asking ---------------------------------------------------------------------------------

    def ask(self, sound: bytes) -> bytes:
        """Scores of all species for a FLAC file.

        Raises:
            EndpointError: The container refuses it.
        """
        runtime = calls.client("sagemaker-runtime", self._region)
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=self.name,
                Body=sound,
                ContentType="audio/flac",
                Accept="application/json",
                CustomAttributes="scores=all",
            )
        except Exception as error:
            if refusals.code_of(error) == "ModelError":
                raise EndpointError(
                    f"The endpoint {self.name} refuses a golden recording: "
                    f"{refusals.text_of(error)[:500]}"
                ) from error
            raise
        body: bytes = answer["Body"].read()
        return body
