"""The lines of a job in CloudWatch."""

import time
from typing import Any

from botocore.exceptions import ClientError

GROUP = "/aws/sagemaker/TrainingJobs"


class Stream:
    """One log stream of a job: `<job>/algo-1-<time>`.

    Args:
        client: Of CloudWatch logs.
        job: Name of the job.
    """

    def __init__(self, client: Any, job: str) -> None:
        self._client, self.name = client, f"{job}/algo-1-{time.time_ns() // 1_000_000}"
        try:
            client.create_log_group(logGroupName=GROUP)
        except ClientError as error:
            # By its code: threads that race for client.exceptions get classes of two kinds.
            if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                raise
        client.create_log_stream(logGroupName=GROUP, logStreamName=self.name)

    def put(self, line: str) -> None:
        """Append a line; CloudWatch takes no empty ones."""
        event = {"timestamp": time.time_ns() // 1_000_000, "message": line or " "}
        self._client.put_log_events(logGroupName=GROUP, logStreamName=self.name, logEvents=[event])
