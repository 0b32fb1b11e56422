"""The lines of a job in CloudWatch."""

import contextlib
import time
from typing import Any

GROUP = "/aws/sagemaker/TrainingJobs"


class Stream:
    """One log stream of a job: `<job>/algo-1-<time>`.

    Args:
        client: Of CloudWatch logs.
        job: Name of the job.
    """

    def __init__(self, client: Any, job: str) -> None:
        self._client, self.name = client, f"{job}/algo-1-{time.time_ns() // 1_000_000}"
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_group(logGroupName=GROUP)
        client.create_log_stream(logGroupName=GROUP, logStreamName=self.name)

    def put(self, line: str) -> None:
        """Append a line; CloudWatch takes no empty ones."""
        event = {"timestamp": time.time_ns() // 1_000_000, "message": line or " "}
        self._client.put_log_events(logGroupName=GROUP, logStreamName=self.name, logEvents=[event])
