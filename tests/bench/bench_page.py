"""How long the page's server takes for its list and a graph, with 200 runs of 50 steps.

Prints medians and slowest of warm requests over HTTP on this machine, the first request after a
start, and a request while one record changes before each, as during a run.
"""

import contextlib
import http.client
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from birdsong.artifacts import write_json
from birdsong.runs.record import Run, State, Step
from birdsong.runs_page.server import create_app

RUNS, STEPS, REQUESTS = 200, 50, 40


def record(name: str, folder: Path) -> dict[str, Any]:
    """A finished run of many steps, each with the inputs, outputs and metrics of a real one."""

    def artifact(step: int, output: str) -> dict[str, Any]:
        path = str(folder / "artifacts" / f"step-{step}" / output)
        kind = "system.Dataset"
        return {"type": kind, "uri": path, "path": path, "metadata": {}, "sha256": "ab" * 32}

    steps = [
        Step(
            name=f"step-{number}",
            task=f"step-{number}",
            component=f"comp-step-{number}",
            state=State.SUCCEEDED,
            upstream=[f"step-{before}" for before in range(max(number - 2, 0), number)],
            started="2026-01-01T00:00:00.000+00:00",
            ended="2026-01-01T00:00:10.000+00:00",
            seconds=10.0,
            inputs={f"parameter_{n}": {"type": "int", "value": n} for n in range(12)}
            | {
                f"from_{before}": artifact(before, "data")
                for before in range(max(number - 2, 0), number)
            },
            outputs={output: artifact(number, output) for output in ("data", "page", "more")},
            metrics={f"metric_{n}": n / 7 for n in range(10)} | {"accuracy": 0.9},
            log=str(folder / "logs" / f"step-{number}.log"),
        )
        for number in range(STEPS)
    ]
    run = Run(
        id=name,
        pipeline="birdsong",
        folder=folder,
        arguments={"source": "s3://a-bucket/birds"} | {f"parameter_{n}": n for n in range(40)},
        state=State.SUCCEEDED,
        started="2026-01-01T00:00:00.000+00:00",
        ended="2026-01-01T00:10:00.000+00:00",
        seconds=600.0,
        steps={step.name: step for step in steps},
    )
    return run.as_json()


def write(runs: Path) -> list[str]:
    """Write the records; returns the ids of their runs."""
    names = [f"20260101-{number:06d}-abcd" for number in range(RUNS)]
    for name in names:
        folder = runs / name
        folder.mkdir()
        write_json(folder / "run.json", record(name, folder))
        (folder / "pipeline.json").write_text("{}")
    return names


def get(port: int, path: str) -> float:
    """Milliseconds of one request."""
    begun = time.perf_counter()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    return (time.perf_counter() - begun) * 1000


def tell(label: str, times: list[float]) -> None:
    print(f"{label:<44} median {statistics.median(times):7.1f} ms   slowest {max(times):7.1f} ms")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        runs = Path(folder)
        names = write(runs)
        server = uvicorn.Server(uvicorn.Config(create_app(runs), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        get(port, "/")
        print(f"{RUNS} runs of {STEPS} steps")
        tell("list, first after a start", [get(port, "/api/runs")])
        tell("list", [get(port, "/api/runs") for _ in range(REQUESTS)])
        changed = []
        for number in range(REQUESTS):
            place = runs / names[-1] / "run.json"
            text = place.read_text()
            place.write_text(text.replace('"seconds": 600.0', f'"seconds": {number}.0'))
            changed.append(get(port, "/api/runs"))
        tell("list, one record changed before", changed)
        tell("run and graph, first time", [get(port, f"/api/runs/{name}") for name in names[:40]])
        one = f"/api/runs/{names[0]}"
        tell("run and graph", [get(port, one) for _ in range(REQUESTS)])
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
