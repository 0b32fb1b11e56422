"""The container of one step: its surroundings, its log, its progress, its memory and its end.

No container removes itself: an engine that does that may lose the exit code (kubeflow/pipelines
#13332). Its code is asked for first, then it is removed here, whatever happens in between.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from birdsong import image_code
from birdsong.aws.settings import VARIABLE
from birdsong.errors import StorageError
from birdsong.runs import containers, processes, surroundings
from birdsong.runs.runners import Job, Name, Running
from birdsong.runs.step_process import GRACE_SECONDS, Lines, too_long, too_much

NETWORK = "BIRDSONG_DOCKER_NETWORK"
"""Environment variable: the engine's network that steps are in, bridge by default."""

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_SHARED_MEMORY = 2**30
"""Bytes of /dev/shm; the engines' default of 64 MiB is too little for TensorFlow's pipelines."""


class Containers:
    """A container per step, in the image that the pipeline names for it."""

    name = Name.DOCKER

    def __init__(
        self, client: Any, images: Mapping[str, str], values: Mapping[str, Any], runs: Path
    ) -> None:
        """Keep what all steps share; see `ready`."""
        self._client, self._values, self._runs = client, dict(values), runs.absolute()
        self.images: Mapping[str, str] = dict(images)
        self.watchdog = ["docker"]
        self._swept = False
        self._security = str(client.info().get("SecurityOptions") or "")

    @classmethod
    def ready(cls, ir: Mapping[str, Any], values: Mapping[str, Any], runs: Path) -> "Containers":
        """Look whether containers of a pipeline can be started here.

        Raises:
            ConfigError: There is no engine, no permission, an image is missing, or a container
                would not see what a parameter names.
        """
        surroundings.refuse_links(values)
        surroundings.refuse_loopback(values, network(), os.environ)
        client = containers.connect()
        executors = ir.get("deploymentSpec", {}).get("executors", {})
        references = [entry["container"]["image"] for entry in executors.values()]
        found = containers.images(client, references)
        # Before the engine is asked to mount it, which it would do as root.
        runs.mkdir(parents=True, exist_ok=True)
        return cls(client, found, values, runs)

    def describe(self) -> list[str]:
        """Images and folders, for people."""
        lines = [f"  {image}" for image in sorted(self.images)]
        for mount in surroundings.mounts(self._values, self._runs):
            how = "writable" if mount.writable else "read-only"
            lines.append(f"  {mount.target}  {how}")
        return ["containers", *lines]

    def start(self, job: Job) -> Running:
        """Create and start a container; before the first one, remove what killed runs left."""
        if not self._swept:
            self._swept = True
            containers.sweep(self._client, self._runs)
        return StepContainer(self._client, job, self._settings(job))

    def end(self, mark: str, at_once: Callable[[], bool]) -> None:
        """Remove the containers with a mark."""
        for container in containers.with_labels(self._client, mark=mark.split("/")[0]):
            containers.remove(self._client, container["Id"])
        self._client.close()

    def _settings(self, job: Job) -> dict[str, Any]:
        """What the engine is asked to create."""
        from docker.types import DeviceRequest, LogConfig, Mount

        target = image_code.target_of(job.image)
        wanted = surroundings.needs(target, self._values)
        if VARIABLE in job.environment:
            wanted |= {"aws", "web"}
        given, files = surroundings.credentials(wanted, os.environ, Path.home())
        shared = surroundings.mounts(self._values, self._runs)
        # Root inside is the caller outside where the engine runs without rights itself.
        root = os.getuid() == 0 or "rootless" in self._security
        limit = job.limits.memory
        gpu = target == "train" and os.environ.get("BIRDSONG_ACCELERATOR") == "gpu"
        step = re.sub(r"[^a-zA-Z0-9_.-]", "-", job.step)
        return {
            "image": job.image,
            "command": job.command,
            "entrypoint": [],
            "name": f"birdsong-{job.run.id}-{step}-{job.mark[:6]}",
            "user": "0:0" if root else f"{os.getuid()}:{os.getgid()}",
            "environment": {
                **given,
                **job.environment,
                "TMPDIR": str(surroundings.HOME),
                processes.MARK: job.mark,
            },
            "labels": {
                containers.RUNS: str(self._runs),
                containers.RUN: job.run.id,
                containers.STEP: job.step,
                containers.MARK: job.mark.split("/")[0],
            },
            "host_config": self._client.api.create_host_config(
                init=True,  # hands signals on and buries orphans
                read_only=True,
                tmpfs={str(surroundings.HOME): "rw,nosuid,nodev,mode=1777"},
                mounts=[
                    Mount(str(m.target), str(m.source), type="bind", read_only=not m.writable)
                    for m in (*shared, *files)
                ],
                cap_drop=["ALL"],
                # A root that may not pass by permissions could not read what its caller can.
                cap_add=["DAC_OVERRIDE"] if root else [],
                security_opt=[
                    "no-new-privileges:true",
                    *(["label=disable"] if "selinux" in self._security else []),
                ],
                group_add=[] if root else [str(group) for group in os.getgroups()],
                network_mode=network(),
                shm_size=_SHARED_MEMORY,
                mem_limit=limit,
                memswap_limit=limit,
                log_config=LogConfig(type="none"),  # the output goes to the run's own log alone
                device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpu else [],
            ),
        }


def network() -> str:
    """The network that steps are in."""
    return os.environ.get(NETWORK) or "bridge"


class StepContainer:
    """A running container; it is started by its creation and must be waited for."""

    def __init__(self, client: Any, job: Job, settings: Mapping[str, Any]) -> None:
        """Create and start it.

        Raises:
            StorageError: The engine refuses.
        """
        self._client, self._api, self._job = client, client.api, job
        self.exceeded = ""
        self.exit_code: int | None = None
        self.peak_memory: int | None = None
        self.container: str | None = None
        self.pid = 0
        self._output: Any = None
        self._ended, self._lines = threading.Event(), Lines(job.progressed)
        self._log = job.log.open("ab")
        try:
            made: str = self._api.create_container(**settings)["Id"]
            self.container = made
            # Before the start, so that the first line is not missed.
            # The bare socket: what `attach` gives instead cannot be closed.
            self._output = self._api.attach_socket(made)
            self._reader = threading.Thread(target=self._copy, daemon=True)
            self._reader.start()
            self._api.start(made)
            self.pid = int(self._api.inspect_container(made)["State"]["Pid"])
        except BaseException as error:
            self._remove()
            self._close()
            if isinstance(error, Exception):
                raise StorageError(f"The container cannot be started: {_said(error)}") from error
            raise

    def wait(self) -> int:
        """Copy the output to the log until the step ends; end it when the run is cancelled.

        Returns:
            The exit code. Where a limit was exceeded, `exceeded` says so.

        Raises:
            StorageError: The engine does not answer any more.
        """
        politely_at: float | None = None
        began = time.monotonic()
        look_at = began
        limits, cancel = self._job.limits, self._job.cancel
        try:
            while True:
                # The end of its output is nearly always its end; ask the engine now and then.
                ended = self._ended.wait(_POLL_SECONDS)
                if (ended or time.monotonic() >= look_at) and not self._runs():
                    break
                if ended:
                    time.sleep(_POLL_SECONDS)
                if time.monotonic() >= look_at:
                    self._measure()
                    # Often at first: a short step ends within a second.
                    young = time.monotonic() - began < _LOOK_SECONDS
                    look_at = time.monotonic() + (_POLL_SECONDS if young else _LOOK_SECONDS)
                if not self.exceeded and limits.seconds is not None:
                    late = time.monotonic() - began > limits.seconds
                    self.exceeded = too_long(limits) if late else ""
                if cancel.wanted or self.exceeded:
                    if politely_at is None:
                        politely_at = time.monotonic()
                        self._send("SIGTERM")
                    elif cancel.at_once or time.monotonic() - politely_at > GRACE_SECONDS:
                        self._send("SIGKILL")
            self._finish()
            if politely_at is not None:
                self._stop_jobs()
        except Exception as error:
            if _gone(error):
                self.exceeded = "Its container was removed from outside while it ran."
                self.exit_code = 128 + signal.SIGKILL
                return self.exit_code
            raise StorageError(
                f"The container engine does not answer any more: {_said(error)}"
            ) from error
        finally:
            self._remove()
            self._reader.join(GRACE_SECONDS)
            self._close()
        assert self.exit_code is not None
        return self.exit_code

    def _stop_jobs(self) -> None:
        """Stop what a step that was ended has at work on SageMaker.

        The step cannot: its first process is KFP's shell, which ends at once at SIGTERM, and the
        container with it.
        """
        if VARIABLE in self._job.environment:
            from birdsong.runs import elsewhere

            self._reader.join(GRACE_SECONDS)
            self._log.write(elsewhere.stop_jobs(self._job.environment).encode())

    def _runs(self) -> bool:
        state = self._api.inspect_container(self.container)["State"]
        return bool(state["Running"] or state["Status"] == "created")

    def _finish(self) -> None:
        state = self._api.inspect_container(self.container)["State"]
        self.exit_code = int(state["ExitCode"])
        if state.get("OOMKilled") and self._job.limits.memory is not None and not self.exceeded:
            self.exceeded = too_much(self._job.limits, self.peak_memory or 0)
        # What is still on its way to the log.
        self._reader.join(GRACE_SECONDS)

    def _close(self) -> None:
        self._log.close()
        if self._output is not None:
            # docker-py keeps the connection there, which closes its socket too.
            with contextlib.suppress(OSError, ValueError):
                self._output._response.close()
            self._output.close()

    def _copy(self) -> None:
        from docker.utils.socket import frames_iter

        try:
            for _, data in frames_iter(self._output, tty=False):
                self._log.write(data)
                self._log.flush()
                self._lines.feed(data)
        except (OSError, ValueError):
            pass  # the container was removed, or the engine is gone; `wait` finds out
        finally:
            self._ended.set()

    def _measure(self) -> None:
        from docker.errors import APIError

        # As of any process where they are seen from here: the engine takes a second to tell, and
        # knows nothing of a step that has ended by then.
        held = processes.memory(self._job.mark)
        with contextlib.suppress(APIError, KeyError, TypeError):
            if not held:
                seen = self._api.stats(self.container, stream=False, one_shot=True)
                found = seen["memory_stats"]["stats"]
                # cgroup 1 and 2 have other words; neither counts the file cache in these.
                held = found.get("anon", found.get("total_rss", 0)) + found.get("shmem", 0)
            self.peak_memory = max(self.peak_memory or 0, int(held))

    def _send(self, name: str) -> None:
        from docker.errors import APIError

        with contextlib.suppress(APIError):  # it has just ended
            self._api.kill(self.container, name)

    def _remove(self) -> None:
        if self.container is not None:
            containers.remove(self._client, self.container)


def _gone(error: Exception) -> bool:
    from docker.errors import NotFound

    return isinstance(error, NotFound)


def _said(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)
