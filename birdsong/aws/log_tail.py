"""The log of a training job while it grows: every stream of it, each line once."""

import os
import time
from collections.abc import Callable
from typing import Any

from birdsong.aws import refusals
from birdsong.aws.clients import Account

GROUP = "/aws/sagemaker/TrainingJobs"

SETTLE_SECONDS = 10.0
"""CloudWatch is behind the job: so long after its end a last look follows."""

KEPT = 40
"""Last lines that are kept, for the error of a job that failed."""


class LogTail:
    """Reads on where it was; a restarted job's new streams are found as they come.

    Args:
        account: Clients.
        job: Name of the job.

    Attributes:
        last: Its last lines.
    """

    def __init__(self, account: Account, job: str) -> None:
        self._account, self._prefix = account, f"{job}/"
        self._tokens: dict[str, str] = {}
        self.last: list[str] = []

    def drain(self, tell: Callable[[str], None]) -> int:
        """Pass on the lines that are new; returns how many."""
        return sum(self._read(stream, tell) for stream in self._streams())

    def finish(self, tell: Callable[[str], None]) -> None:
        """Pass on what comes after the end of the job."""
        scale = min(float(os.environ.get("BIRDSONG_SAGEMAKER_INTERVAL", "15")) / 15, 1.0)
        time.sleep(SETTLE_SECONDS * scale)
        self.drain(tell)

    def _streams(self) -> list[str]:
        def question() -> list[str]:
            pages = self._account.logs.get_paginator("describe_log_streams").paginate(
                logGroupName=GROUP, logStreamNamePrefix=self._prefix
            )
            try:
                return [one["logStreamName"] for page in pages for one in page["logStreams"]]
            except Exception as error:
                if refusals.is_absent(error):  # the account's first job has not written yet
                    return []
                raise

        return self._account.ask("DescribeLogStreams", question)

    def _read(self, stream: str, tell: Callable[[str], None]) -> int:
        count = 0
        while True:
            token = self._tokens.get(stream)
            more = {"nextToken": token} if token else {}

            def question(more: dict[str, str] = more) -> Any:
                return self._account.logs.get_log_events(
                    logGroupName=GROUP, logStreamName=stream, startFromHead=True, **more
                )

            answer = self._account.ask("GetLogEvents", question)
            for event in answer["events"]:
                line = str(event["message"]).rstrip("\n")
                self.last = [*self.last, line][-KEPT:]
                tell(line)
                count += 1
            self._tokens[stream] = answer["nextForwardToken"]
            # An empty page is no end: only the same token twice is.
            if answer["nextForwardToken"] == token:
                return count


def last_lines(account: Account, job: str, most: int = 15) -> list[str]:
    """The last lines of a job's log, such as of one that an earlier try of the step left."""
    tail = LogTail(account, job)
    tail.drain(lambda line: None)
    return [line for line in tail.last if line.strip()][-most:]
