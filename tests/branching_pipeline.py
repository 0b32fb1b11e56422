"""A small pipeline with two branches for tests of reuse, rerun and faults; also a program.

`python branching_pipeline.py run RUNS [ARGUMENTS as JSON]` and
`python branching_pipeline.py resume RUNS RUN` print the run's id and end as `birdsong run` does.
BIRDSONG_RUNNER names the runner.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Output

from components import images

IMAGE = images.DATA


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def begin(out: Output[Dataset], metrics: Output[Metrics], text: str, pause: float) -> None:
    """Write an artifact folder with two files."""
    import time

    from birdsong import artifacts

    with artifacts.create(out.path, "words", {"text": text}) as folder:
        (folder.path / "one.txt").write_text(text)
        time.sleep(pause)
        (folder.path / "two.txt").write_text(text * 100)
    metrics.log_metric("letters", len(text))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def left(data: Input[Dataset], out: Output[Artifact], page: Output[HTML], times: int) -> int:
    """Repeat the text, as a folder without a spec."""
    from pathlib import Path

    folder = Path(out.path)
    folder.mkdir(exist_ok=True)
    (folder / "left.txt").write_text((Path(data.path) / "one.txt").read_text() * times)
    Path(page.path).write_text(f"<p>{times}</p>")
    return times


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def right(
    data: Input[Dataset],
    out: Output[Dataset],
    curves: Output[ClassificationMetrics],
    ending: str,
    pause: float,
    children: bool,
) -> None:
    """Add an ending, as a single file; perhaps with a process in a session of its own."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    if children:
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
        )
    time.sleep(pause)
    Path(out.path).write_text((Path(data.path) / "two.txt").read_text() + ending)
    curves.log_roc_curve([0.0, 1.0], [0.0, 1.0], [1.0, 0.0])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join(
    first: Input[Artifact],
    second: Input[Dataset],
    out: Output[Dataset],
    metrics: Output[Metrics],
    times: int,
    how: str,
    pause: float,
) -> None:
    """Put both together, or fail."""
    import time
    from pathlib import Path

    from birdsong import artifacts
    from birdsong.errors import DataError, UnreachableError

    time.sleep(pause)
    if how == "fail":
        raise DataError("The branches do not fit.")
    if how == "unreachable":
        raise UnreachableError("The bucket does not answer.")
    if how.startswith("once:"):
        mark = Path(how.removeprefix("once:"))
        if not mark.exists():
            mark.touch()
            raise UnreachableError("The bucket does not answer.")
    if how == "fat":
        held = bytearray(300_000_000)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(30)
    if how == "long":
        while True:
            print("still here", flush=True)
    words = (Path(first.path) / "left.txt").read_text() + Path(second.path).read_text()
    with artifacts.create(out.path, "words", {}) as folder:
        (folder.path / "words.txt").write_text(words)
    metrics.log_metric("length", len(words))
    metrics.log_metric("times", times)


@dsl.pipeline(name="branching")
def branching(
    text: str = "song",
    times: int = 2,
    ending: str = "!",
    how: str = "well",
    pause: float = 0.0,
    children: bool = False,
) -> None:
    begun = begin(text=text, pause=pause)
    one = left(data=begun.outputs["out"], times=times)
    two = right(data=begun.outputs["out"], ending=ending, pause=pause, children=children)
    join(
        first=one.outputs["out"],
        second=two.outputs["out"],
        times=one.outputs["Output"],
        how=how,
        pause=pause,
    )


def contents(run: Any) -> dict[str, Any]:
    """Hash of each output that has one, and value of each other, of a run."""
    return {
        f"{step.name}.{name}": value.get("sha256", value.get("value", value.get("metadata")))
        for step in run.steps.values()
        for name, value in step.outputs.items()
    }


def main(action: str, runs: Path, rest: str) -> int:
    from birdsong.runs import engine, graph, record, rerun, runners, signals
    from birdsong.runs.record import State

    ir = graph.as_ir(branching)
    more: dict[str, Any] = {}
    if action == "resume":
        plan = rerun.resume(record.find(runs, rest), ir)
        values = plan.values
        more = {"pinned": plan.pinned, "parent": plan.parent.id}
    else:
        values = json.loads(rest)
        more = {"cache": action == "run-cached"}
    with signals.listening() as cancel:
        runner = runners.make(os.environ.get("BIRDSONG_RUNNER", "subprocess"), ir, values, runs)
        run = engine.execute(branching, values, runs, cancel=cancel, runner=runner, **more)
    print(run.id)
    return {State.SUCCEEDED: 0, State.CANCELLED: 130}.get(run.state, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).absolute(), sys.argv[3]))
