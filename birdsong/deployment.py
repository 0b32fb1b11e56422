"""Stage: serve the registered version and check it with its golden recordings."""

import shlex
import time
from pathlib import Path
from typing import Any

from birdsong import artifacts, golden_gate
from birdsong.config import DeployConfig
from birdsong.errors import DataError
from birdsong.local_server import LocalServer, local_server

ENDPOINT = "endpoint.json"


def deploy(
    version_path: str | Path, endpoint_path: str | Path, config: DeployConfig
) -> dict[str, float]:
    """Serve the registered version and check it with its golden recordings.

    With target local, the bundle's server runs as a process of its own for as long as the check
    takes; `endpoint.json` says how to start it for good.

    Args:
        version_path: Output of register; a rejected version is passed over.
        endpoint_path: Where `endpoint.json` is written.
        config: Target, tolerance and the longest wait.

    Returns:
        Golden recordings, those that agreed, the largest difference and seconds; `deployed` 0
        where there was nothing to check.

    Raises:
        ConfigError: The target is not one that this birdsong serves.
        DataError: The server does not start, or its scores differ from the stored ones.
    """
    artifacts.read_spec(version_path, "version")
    version = artifacts.read_json(Path(version_path) / "version.json")
    found: dict[str, Any] = {
        "target": config.target,
        "name": version["name"],
        "version": version["version"],
        "bundle_sha256": version["bundle_sha256"],
        "command": None,
        "golden": [],
    }
    named = f"{version['name']} version {version['version']}"
    if version["status"] != "registered":
        reason = f"{named} is {version['status']}: {version['reason']}"
        return _finish(
            version_path, endpoint_path, config, {**found, "state": "passed over", "reason": reason}
        )
    if config.target == "none":
        reason = f"target is none, so {named} is not served."
        return _finish(
            version_path, endpoint_path, config, {**found, "state": "none", "reason": reason}
        )
    if config.target == "sagemaker":
        from birdsong.aws import endpoint_step

        found |= endpoint_step.deploy(Path(version_path) / "bundle", version, config)
        return _finish(version_path, endpoint_path, config, found)
    checked = _check_locally(Path(version_path) / "bundle", str(version["version"]), config)
    return _finish(version_path, endpoint_path, config, {**found, **checked})


def _finish(
    version_path: str | Path, endpoint_path: str | Path, config: DeployConfig, found: dict[str, Any]
) -> dict[str, float]:
    with artifacts.create(
        endpoint_path, kind="endpoint", settings=config, inputs={"version": version_path}
    ) as folder:
        artifacts.write_json(folder.path / ENDPOINT, found)
    print(f"{found['state']}: {found['reason']}")
    if found["state"] != "checked":
        return {"deployed": 0.0}
    verb = "Look at" if config.target == "sagemaker" else "Start"
    print(f"{verb} it with: {found['command']}")
    return {
        "deployed": 1.0,
        "golden": float(len(found["golden"])),
        "agreed": float(len(found["golden"])),
        "largest_difference": found["largest_difference"],
        "ready_seconds": found["ready_seconds"],
        "median_milliseconds": found["median_milliseconds"],
        "seconds": found["seconds"],
    }


def _check_locally(folder: Path, version: str, config: DeployConfig) -> dict[str, Any]:
    """Start the bundle's server, compare its scores with the stored ones, and stop it."""
    started = time.monotonic()
    with local_server(folder, version, config.timeout_seconds, config.runtime) as server:
        ready = time.monotonic() - started
        checked = golden_gate.check(
            folder,
            lambda sound: _ask(server, sound, config.timeout_seconds),
            config.tolerance,
            config.latency_ms,
        )
    print(checked.table)
    shown = shlex.quote(str(folder.resolve()))
    return {
        "state": "checked",
        "reason": checked.words,
        "command": f"python pipeline.py serve --bundle {shown} --port 8080",
        **checked.record(),
        "ready_seconds": round(ready, 2),
        "seconds": round(time.monotonic() - started, 2),
    }


def _ask(server: LocalServer, sound: bytes, timeout: float) -> bytes:
    status, body = server.request(
        "POST", "/invocations?scores=all", sound, {"Content-Type": "audio/flac"}, timeout=timeout
    )
    if status != 200:
        raise DataError(
            f"The server answered {status} to a golden recording: "
            f"{body.decode(errors='replace')[:500]}\n{server.log_tail()}"
        )
    return body
